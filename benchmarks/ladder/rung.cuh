// What the rungs have in common: a block's tile is 128 x 128, in steps of 64 k that two TMA boxes fill, and a warpgroup
// writes 64 rows of it.
#pragma once

#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/arch/wgmma.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/tensor_map.h"
#include "rungs.h"

namespace llmcore::ladder {

constexpr int kTile = 128, kStep = 64, kBoxBytes = kTile * kStep * 2, kStageBytes = 2 * kBoxBytes;

inline CUtensorMap map_of(const bf16* data, int rows, int K) {
    return bf16_tensor_map(data, {K, rows, 1}, {K, int64_t(rows) * K}, {kStep, kTile, 1});
}

LLMCORE_DEVICE void load_step(uint32_t stage, uint32_t full, const CUtensorMap* a, const CUtensorMap* b, int row0,
                              int column0, int step) {
    ptx::mbarrier_arrive_expect(full, kStageBytes);
    ptx::tma_load(stage, a, full, {step * kStep, row0, 0});
    ptx::tma_load(stage + kBoxBytes, b, full, {step * kStep, column0, 0});
}

// 64 rows of the stage's tile of a, all of its tile of b. Sixteen k further are 32 bytes of a swizzled line.
LLMCORE_DEVICE void multiply_step(float (&sums)[kTile / 2], uint32_t a, uint32_t b, bool adds) {
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStep; k += 16)
        ptx::wgmma<kTile>(sums, ptx::operand(a + uint32_t(k * 2), 0, 1024), ptx::operand(b + uint32_t(k * 2), 0, 1024),
                          adds || k > 0);
    ptx::wgmma_commit();
}

LLMCORE_DEVICE void store_rows(bf16* y, const float (&sums)[kTile / 2], int row0, int column0, int N) {
    const int thread = int(threadIdx.x) % 128, row = row0 + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) {
        const int column = column0 + i / 4 * 8 + thread % 4 * 2 + i % 2;
        y[size_t(row + i / 2 % 2 * 8) * size_t(N) + size_t(column)] = to_bf16(sums[i]);
    }
}

}  // namespace llmcore::ladder
