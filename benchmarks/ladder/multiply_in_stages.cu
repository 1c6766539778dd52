// Rung 2: four stages. While one is multiplied three are on their way, so that memory's latency is paid once. But the
// thread that loads is one of those that multiply: it asks for the next step only after it has waited for its own
// products, and every step still ends in a barrier of the whole block.
#include "rung.cuh"

namespace llmcore::ladder {
namespace {

constexpr int kStages = 4;

__global__ void __launch_bounds__(256)
    multiply_in_stages_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, bf16* y,
                              Problem p) {
    const uint32_t shared = shared_address(shared_memory<char>());
    auto stage = [&](int step) { return shared + uint32_t(step % kStages * kStageBytes); };
    auto full = [&](int step) { return shared + uint32_t(kStages * kStageBytes + step % kStages * 8); };
    const int row0 = int(blockIdx.y) * kTile, column0 = int(blockIdx.x) * kTile, part = int(threadIdx.x) / 128;
    const int steps = p.K / kStep;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kStages; ++s) ptx::mbarrier_init(full(s), 1);
        ptx::fence_mbarrier_init();
        for (int s = 0; s < kStages - 1 && s < steps; ++s) load_step(stage(s), full(s), &a, &b, row0, column0, s);
    }
    __syncthreads();
    float sums[kTile / 2];
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const int next = step + kStages - 1;
        if (threadIdx.x == 0 && next < steps) load_step(stage(next), full(next), &a, &b, row0, column0, next);
        ptx::mbarrier_wait(full(step), uint32_t(step / kStages & 1));
        multiply_step(sums, stage(step) + uint32_t(part * kBoxBytes / 2), stage(step) + kBoxBytes, step > 0);
        ptx::wgmma_wait<0>();
        __syncthreads();  // both have read the stage, which the next turn of the loop fills
    }
    store_rows(y, sums, row0 + part * 64, column0, p.N);
}

}  // namespace

void multiply_in_stages(const Cuda& cuda, bf16* y, const bf16* a, const bf16* b, const Problem& p) {
    launch({dim3(unsigned(p.N / kTile), unsigned(p.M / kTile)), 256, kStages * kStageBytes + kStages * 8, cuda.stream},
           multiply_in_stages_kernel, map_of(a, p.M, p.K), map_of(b, p.N, p.K), y, p);
}

}  // namespace llmcore::ladder
