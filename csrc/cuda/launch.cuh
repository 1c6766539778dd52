// The only way to start a kernel: launch({grid, block, shared_bytes, stream, cluster}, kernel, arguments...).
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda/api.h"
#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/host.h"
#include "emu/scheduler.h"
#endif

namespace llmcore {

struct Launch {
    dim3 grid, block;
    size_t shared_bytes = 0;
    cudaStream_t stream = nullptr;
    unsigned cluster = 1;  // blocks along x
};

#if LLMCORE_EMULATE

template <class... Parameters, class... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    // Copied once for all threads, like the parameter buffer of a GPU.
    std::tuple<std::decay_t<Parameters>...> parameters(std::forward<Arguments>(arguments)...);
    emu::submit(shape.stream, [shape, kernel, parameters] {
        emu::run({shape.grid, shape.block, dim3(shape.cluster), shape.shared_bytes},
                 [&] { std::apply(kernel, parameters); });
    });
}

#else

template <class... Parameters, class... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = shape.stream;
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = shape.cluster;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = shape.cluster > 1;
    if (shape.shared_bytes > 48 * 1024)
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shape.shared_bytes)),
                   "cudaFuncSetAttribute");
    check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "kernel launch");
}

#endif

}  // namespace llmcore
