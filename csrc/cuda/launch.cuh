// The only way to start a kernel: launch({grid, block, shared_bytes, stream, cluster}, kernel, arguments...).
#pragma once

#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda/api.h"
#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/host.h"
#include "emu/scheduler.h"
#else
#include <cxxabi.h>

#include <cstdlib>
#endif

namespace llmcore {

struct Launch {
    dim3 grid, block;
    size_t shared_bytes = 0;
    cudaStream_t stream = nullptr;
    unsigned cluster = 1;            // blocks along x
    bool overlaps_previous = false;  // starts early: the kernel calls wait_for_previous_kernel (cuda/arch/grid.cuh)
    bool all_resident = false;       // a cooperative launch: all blocks run at once and may wait for each other
};

// "kernel add_rows<float> with grid (132, 1, 1), block (256, 1, 1), 98304 bytes of shared memory on cuda:0: ...".
// `name` is empty where it is not known.
inline void check_launch(cudaError_t error, const Launch& shape, const std::string& name) {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError();
    auto text_of = [](dim3 size) { return concat("(", size.x, ", ", size.y, ", ", size.z, ")"); };
    throw DeviceError(sentence_of(
        error, concat("kernel ", name, name.empty() ? "" : " ", "with grid ", text_of(shape.grid), ", block ",
                      text_of(shape.block), shape.cluster > 1 ? concat(", clusters of ", shape.cluster) : "", ", ",
                      shape.shared_bytes, " bytes of shared memory")));
}

#if LLMCORE_EMULATE

template <class... Parameters, class... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    // Copied once for all threads, like the parameter buffer of a GPU.
    std::tuple<std::decay_t<Parameters>...> parameters(std::forward<Arguments>(arguments)...);
    emu::check_launch(shape.shared_bytes, shape.cluster);
    check_launch(emu::injected_error(), shape, "");
    emu::submit(shape.stream, [shape, kernel, parameters] {
        const emu::LaunchShape run_as{.grid = shape.grid,
                                      .block = shape.block,
                                      .cluster = dim3(shape.cluster),
                                      .shared_bytes = shape.shared_bytes,
                                      .all_resident = shape.all_resident,
                                      .overlaps_previous = shape.overlaps_previous};
        emu::run(run_as, [&] { std::apply(kernel, parameters); });
    });
}

#else

// As it is written in the source; "" if CUDA does not say.
inline std::string name_of_kernel(const void* kernel) {
    const char* mangled = nullptr;
    if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || mangled == nullptr) return "";
    int status = 0;
    char* readable = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    std::string name = readable != nullptr ? readable : mangled;
    std::free(readable);
    return name.substr(0, name.find('('));
}

template <class... Parameters, class... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = shape.stream;
    cudaLaunchAttribute attributes[3] = {};
    config.attrs = attributes;
    if (shape.cluster > 1) {
        cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = shape.cluster;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (shape.overlaps_previous) {
        cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    if (shape.all_resident) {
        cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeCooperative;
        attribute.val.cooperative = 1;
    }
    cudaError_t status = cudaSuccess;
    if (shape.shared_bytes > 48 * 1024)
        status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(shape.shared_bytes));
    if (status == cudaSuccess) status = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
    if (status != cudaSuccess) check_launch(status, shape, name_of_kernel(reinterpret_cast<const void*>(kernel)));
}

#endif

}  // namespace llmcore
