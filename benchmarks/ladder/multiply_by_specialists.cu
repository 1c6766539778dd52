// Rung 3: a warpgroup that only loads. It runs ahead by as many stages as there are, and hands most of its registers to
// those that multiply; they never wait for each other, and keep one batch of wgmma in flight behind the one they issue.
// What is left: a tile of 128 x 128 asks the second-level cache for 64 bytes a cycle, more than it gives, so that
// larger tiles come next; and nothing is multiplied while a tile is stored, which is what ping-pong hides.
#include "rung.cuh"

namespace llmcore::ladder {
namespace {

constexpr int kStages = 4;

__global__ void __launch_bounds__(384, 1)
    multiply_by_specialists_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                                   bf16* y, Problem p) {
    const uint32_t shared = shared_address(shared_memory<char>());
    auto stage = [&](int step) { return shared + uint32_t(step % kStages * kStageBytes); };
    auto full = [&](int step) { return shared + uint32_t(kStages * kStageBytes + step % kStages * 8); };
    auto empty = [&](int step) { return full(step) + kStages * 8; };
    auto round = [&](int step) { return uint32_t(step / kStages & 1); };
    const int row0 = int(blockIdx.y) * kTile, column0 = int(blockIdx.x) * kTile, steps = p.K / kStep;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kStages; ++s) {
            ptx::mbarrier_init(full(s), 1);
            ptx::mbarrier_init(empty(s), 2);
        }
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ptx::set_max_registers_down<40>();
        if (threadIdx.x != 0) return;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            ptx::mbarrier_wait(empty(step), round(step) ^ 1);
            load_step(stage(step), full(step), &a, &b, row0, column0, step);
        }
    } else {
        ptx::set_max_registers_up<232>();
        const int part = int(threadIdx.x) / 128 - 1;
        float sums[kTile / 2];
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            ptx::mbarrier_wait(full(step), round(step));
            multiply_step(sums, stage(step) + uint32_t(part * kBoxBytes / 2), stage(step) + kBoxBytes, step > 0);
            ptx::wgmma_wait<1>();
            if (step > 0 && threadIdx.x % 128 == 0) ptx::mbarrier_arrive(empty(step - 1));
        }
        ptx::wgmma_wait<0>();
        store_rows(y, sums, row0 + part * 64, column0, p.N);
    }
}

}  // namespace

void multiply_by_specialists(const Cuda& cuda, bf16* y, const bf16* a, const bf16* b, const Problem& p) {
    launch(
        {dim3(unsigned(p.N / kTile), unsigned(p.M / kTile)), 384, kStages * kStageBytes + 2 * kStages * 8, cuda.stream},
        multiply_by_specialists_kernel, map_of(a, p.M, p.K), map_of(b, p.N, p.K), y, p);
}

}  // namespace llmcore::ladder
