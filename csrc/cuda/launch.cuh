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
    unsigned cluster = 1;            // blocks along x
    bool overlaps_previous = false;  // starts early: the kernel calls wait_for_previous_kernel (cuda/arch/grid.cuh)
    bool all_resident = false;       // a cooperative launch: all blocks run at once and may wait for each other
};

#if LLMCORE_EMULATE

template <class... Parameters, class... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    // Copied once for all threads, like the parameter buffer of a GPU.
    std::tuple<std::decay_t<Parameters>...> parameters(std::forward<Arguments>(arguments)...);
    emu::check_launch(shape.shared_bytes, shape.cluster);
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
    if (shape.shared_bytes > 48 * 1024)
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shape.shared_bytes)),
                   "cudaFuncSetAttribute");
    check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "kernel launch");
}

#endif

}  // namespace llmcore
