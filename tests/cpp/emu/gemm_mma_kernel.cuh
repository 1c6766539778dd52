// C (M, N) float = A (M, K) B (N, K)^T in bf16 with cp.async, ldmatrix and mma.sync, with places for bugs: tiles of
// 64x64x64, four warps of 32x32, three stages, rows of 128 bytes whose 16-byte chunks are swizzled by the row.
#pragma once

#include "cuda/arch/cp_async.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/shared.cuh"
#include "planted.h"

namespace llmcore {

constexpr int kTile = 64, kStages = 3, kTileBytes = kTile * kTile * 2, kGemmMmaShared = kStages * 2 * kTileBytes;

LLMCORE_DEVICE uint32_t swizzled(uint32_t base, int row, int chunk, int bits = 7) {
    return base + uint32_t(row * 128 + ((chunk ^ (row & bits)) << 4));
}

LLMCORE_DEVICE void load_tile(uint32_t tile, const uint16_t* source, int first_row, int rows, int k0, int K) {
#pragma unroll
    for (int i = 0; i < kTile * 8 / 128; ++i) {
        int row = (int(threadIdx.x) + i * 128) / 8, chunk = int(threadIdx.x) % 8, k = k0 + chunk * 8;
        bool inside = (first_row + row < rows && k < K) || planted_bug == 5;
        const uint16_t* from = inside ? source + size_t(first_row + row) * K + k : source;
        ptx::cp_async<16>(swizzled(tile, row, chunk), from, inside ? 16 : 0);
    }
}

LLMCORE_DEVICE void multiply_tile(float (&sums)[2][4][4], uint32_t tile_a, uint32_t tile_b, int m, int n) {
    int lane = int(threadIdx.x) % 32, bits = planted_bug == 2 ? 3 : 7;
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            ptx::ldmatrix<4>(a[i], swizzled(tile_a, m + i * 16 + lane % 16, k * 2 + lane / 16, bits));
#pragma unroll
        for (int j = 0; j < 2; ++j)
            ptx::ldmatrix<4>(b[j], swizzled(tile_b, n + j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2, bits));
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) ptx::mma_bf16(sums[i][j], a[i], &b[j / 2][j % 2 * 2]);
    }
}

static __global__ void __launch_bounds__(128)
    gemm_mma(float* c, const uint16_t* a, const uint16_t* b, int M, int N, int K) {
    uint32_t shared = shared_address(shared_memory<char>());
    int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, m = warp / 2 * 32, n = warp % 2 * 32;
    int m0 = int(blockIdx.y) * (planted_bug == 22 ? kTile - 1 : kTile), n0 = int(blockIdx.x) * kTile;
    int steps = (K + kTile - 1) / kTile;
    auto stage = [&](int t) { return shared + uint32_t(t % kStages * 2 * kTileBytes); };
    auto load = [&](int t) {
        if (t >= steps) return;
        load_tile(stage(t), a, m0, M, t * kTile, K);
        load_tile(stage(t) + kTileBytes, b, n0, N, t * kTile, K);
    };
    float sums[2][4][4] = {};
#pragma unroll
    for (int t = 0; t < kStages - 1; ++t) {
        load(t);
        ptx::cp_async_commit();
    }
    for (int t = 0; t < steps; ++t) {
        if (planted_bug == 7)
            ptx::cp_async_wait<kStages - 1>();  // one group short
        else
            ptx::cp_async_wait<kStages - 2>();
        if (planted_bug == 21) load(t + kStages - 1);  // refills the stage that other warps still read
        if (planted_bug != 1) __syncthreads();
        if (planted_bug != 21) load(t + kStages - 1);
        ptx::cp_async_commit();
        multiply_tile(sums, stage(t), stage(t) + kTileBytes, m, n);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int row = m0 + m + i * 16 + lane / 4 + e / 2 * 8, column = n0 + n + j * 8 + lane % 4 * 2 + e % 2;
                if (row < M && column < N) c[size_t(row) * N + column] = sums[i][j][e];
            }
}

}  // namespace llmcore
