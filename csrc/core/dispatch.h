// From a Tensor to a launcher: which backend, which element type. The only place that knows which backends exist.
#pragma once

#include <type_traits>

#include "core/backend.h"
#include "core/bf16.h"
#include "core/check.h"
#include "core/cuda_device.h"
#include "core/dtype.h"
#include "core/runtime.h"
#include "core/subnormals.h"
#include "core/tensor.h"
#include "core/thread_pool.h"

namespace llmcore {

// Calls f(backend). parse_device has refused devices that this build does not have. While the CUDA backend grows, a
// family may have no kernels there: CMake tells every source of csrc/ops the name of its family (LLMCORE_FAMILY) and
// whether csrc/cuda has a source of that name (LLMCORE_FAMILY_HAS_CUDA). Only then is its code instantiated for Cuda,
// and then the linker lists what is missing.
template <class F>
auto dispatch_backend(Device device, F&& f) {
    RunningOn running(device);
    if (device.type == DeviceType::kCuda) {
#if LLMCORE_FAMILY_HAS_CUDA
        try {
            return f(cuda::open(device.index));
        } catch (const DeviceError& error) {
            throw DeviceError(concat(LLMCORE_FAMILY, ": ", error.what()));
        }
#else
        refuse_cuda(LLMCORE_FAMILY, device);
#endif
    }
    FixedThreads fixed;
    FlushSubnormals flush;
    switch (cpu_isa()) {
#if defined(__x86_64__)
        case Isa::kAmx:
        case Isa::kAvx512Bf16:
        case Isa::kAvx512:
            return f(CpuBackend<Isa::kAvx512>{});
        case Isa::kAvx2:
            return f(CpuBackend<Isa::kAvx2>{});
#endif
        default:
            return f(CpuBackend<Isa::kBaseline>{});
    }
}

// Calls f(backend) with the level that multiplies a matrix of A by one of B: see core/backend.h.
template <class A, class B, class Backend, class F>
auto dispatch_product(Backend backend, F&& f) {
#if defined(__x86_64__)
    constexpr bool with_bf16 = std::is_same_v<A, bf16> || std::is_same_v<B, bf16>;
    if constexpr (with_bf16 && std::is_same_v<Backend, CpuBackend<Isa::kAvx512>>) {
        if (cpu_isa() == Isa::kAmx) return f(CpuBackend<Isa::kAmx>{});
        if (cpu_isa() == Isa::kAvx512Bf16) return f(CpuBackend<Isa::kAvx512Bf16>{});
    }
#endif
    return f(backend);
}

template <class T>
struct TypeTag {
    using type = T;
};

// Calls f(backend, TypeTag<T>) for a float32 or bfloat16 tensor:
//   dispatch(x, [&](auto backend, auto tag) { using T = typename decltype(tag)::type; relu(backend, y.data<T>(), ...);
//   });
template <class F>
void dispatch(const Tensor& x, F&& f) {
    dispatch_backend(x.device(), [&](auto backend) {
        if (x.dtype() == DType::kBFloat16)
            f(backend, TypeTag<bf16>{});
        else
            f(backend, TypeTag<float>{});
    });
}

}  // namespace llmcore
