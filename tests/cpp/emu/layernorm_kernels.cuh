// Layer normalisation in two ways, with places for bugs: one warp per row with 16-byte loads, and one block per row
// with a reduction through shared memory.
#pragma once

#include "cuda/shared.cuh"
#include "cuda/warp.cuh"
#include "planted.h"

namespace llmcore {

template <int kWarps>
__global__ void layernorm_by_warp(float* y, const float* x, int rows, int columns) {
    int row = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    if (planted_bug != 6 && row >= rows) return;
    const float* x_n = x + size_t(row) * columns;
    int vectors = columns % 4 == 0 || planted_bug == 19 ? columns / 4 : 0;  // rows are aligned to 16 bytes only then
    float sum = 0, squares = 0;
    for (int i = lane; i < vectors; i += 32) {
        float4 v = reinterpret_cast<const float4*>(x_n)[i];
        sum += v.x + v.y + v.z + v.w;
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    for (int i = vectors * 4 + lane; i < columns; i += 32) sum += x_n[i], squares += x_n[i] * x_n[i];
    sum = warp_sum(sum);
    squares = warp_sum(squares);
    float mean = sum / columns, rstd = rsqrtf(squares / columns - mean * mean + 1e-5f);
    for (int i = lane; i < columns; i += 32) y[size_t(row) * columns + i] = (x_n[i] - mean) * rstd;
}

template <int kWarps>
__global__ void layernorm_by_block(float* y, const float* x, int columns) {
    LLMCORE_SHARED(float[2][kWarps], sums);
    int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    size_t row = planted_bug == 23 ? blockIdx.x / 2 : blockIdx.x;
    const float* x_n = x + row * columns;
    float sum = 0, squares = 0;
    for (int i = int(threadIdx.x); i < columns; i += kWarps * 32) sum += x_n[i], squares += x_n[i] * x_n[i];
    sum = warp_sum(sum);
    squares = warp_sum(squares);
    if (lane == 0) sums[0][warp] = sum, sums[1][warp] = squares;
    if (planted_bug != 17) __syncthreads();
    sum = squares = 0;
    for (int i = 0; i < kWarps; ++i) sum += sums[0][i], squares += sums[1][i];
    if (planted_bug == 18) sums[0][kWarps * 2 + warp] = 0;
    float mean = sum / columns, rstd = rsqrtf(squares / columns - mean * mean + 1e-5f);
    for (int i = int(threadIdx.x); i < columns; i += kWarps * 32) y[row * columns + i] = (x_n[i] - mean) * rstd;
}

}  // namespace llmcore
