// Rung 1: the instructions alone. Two warpgroups wait for a step of K to be loaded, multiply it, and only then is the
// next one asked for. Tensor cores and memory take turns: whatever the tile, one of them is idle.
#include "rung.cuh"

namespace llmcore::ladder {
namespace {

__global__ void __launch_bounds__(256)
    multiply_by_wgmma_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, bf16* y,
                             Problem p) {
    const uint32_t stage = shared_address(shared_memory<char>()), full = stage + kStageBytes;
    const int row0 = int(blockIdx.y) * kTile, column0 = int(blockIdx.x) * kTile, part = int(threadIdx.x) / 128;
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(full, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    float sums[kTile / 2];
#pragma unroll 1
    for (int step = 0; step < p.K / kStep; ++step) {
        if (threadIdx.x == 0) load_step(stage, full, &a, &b, row0, column0, step);
        ptx::mbarrier_wait(full, uint32_t(step & 1));
        multiply_step(sums, stage + uint32_t(part * kBoxBytes / 2), stage + kBoxBytes, step > 0);
        ptx::wgmma_wait<0>();
        __syncthreads();  // both have read the stage
    }
    store_rows(y, sums, row0 + part * 64, column0, p.N);
}

}  // namespace

void multiply_by_wgmma(const Cuda& cuda, bf16* y, const bf16* a, const bf16* b, const Problem& p) {
    launch({dim3(unsigned(p.N / kTile), unsigned(p.M / kTile)), 256, kStageBytes + 8, cuda.stream},
           multiply_by_wgmma_kernel, map_of(a, p.M, p.K), map_of(b, p.N, p.K), y, p);
}

}  // namespace llmcore::ladder
