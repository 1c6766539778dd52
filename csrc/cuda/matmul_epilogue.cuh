// What follows a tile's float sums, for every matmul kernel: y = residual + activation(sums + bias), or y += that. Four
// adjacent columns at a time, so that a warp reads and writes whole lines of memory.
#pragma once

#include "cuda/activation_math.cuh"
#include "cuda/fours.cuh"
#include "kernels/matmul.h"

namespace llmcore {

// MatmulEpilogue as kernels take it.
template <class Out>
struct TileEpilogue {
    Out* y;  // (batch, M, N)
    MatmulEpilogue<Out> fused;
    int M, N;
    bool accumulate;
    bool whole_fours;  // N and every address allow four elements at once
};

template <class Out>
TileEpilogue<Out> tile_epilogue(Out* y, const MatmulProblem& problem, const MatmulEpilogue<Out>& fused) {
    const bool whole_fours = problem.N % 4 == 0 && on_four(y) && on_four(fused.bias) && on_four(fused.pre_activation) &&
                             on_four(fused.residual);
    return {y, fused, static_cast<int>(problem.M), static_cast<int>(problem.N), problem.accumulate, whole_fours};
}

// ---------------------------------------------------------------------------------------------------------------------
// four columns of a row

// From the sums of columns `column` to `column` + 3 of one row to y. `column` is a multiple of four.
template <class Out>
LLMCORE_DEVICE void finish_four(const TileEpilogue<Out>& e, int matrix, int row, int column, float (&value)[4]) {
    if (row >= e.M || column >= e.N) return;
    const int count = e.N - column < 4 ? e.N - column : 4;
    const bool whole = e.whole_fours;
    const size_t at = (size_t(matrix) * size_t(e.M) + size_t(row)) * size_t(e.N) + size_t(column);
    if (e.fused.bias != nullptr) add_four(value, e.fused.bias + column, count, whole);
    if (e.fused.pre_activation != nullptr) store_four(e.fused.pre_activation + at, value, count, whole);
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] = activate(e.fused.activation, value[i]);
    if (e.fused.residual != nullptr) add_four(value, e.fused.residual + at, count, whole);
    if (e.accumulate) add_four(value, e.y + at, count, whole);
    store_four(e.y + at, value, count, whole);
}

// ---------------------------------------------------------------------------------------------------------------------
// a tile of sums that lies in shared memory

// Rows of kColumns floats and eight more: the pairs of an accumulator's rows then fall into different banks.
template <int kColumns>
constexpr int kSumsPitch = kColumns + 8;

// A thread's 16x8 of a product, as mma.sync and wgmma leave it in four accumulators, to (row, column) of the tile.
template <int kColumns>
LLMCORE_DEVICE void keep_sums(float* sums, int row, int column, const float* d) {
    const int lane = int(threadIdx.x) % 32;
    float* to = sums + (row + lane / 4) * kSumsPitch<kColumns> + column + lane % 4 * 2;
    *reinterpret_cast<float2*>(to) = float2{d[0], d[1]};
    *reinterpret_cast<float2*>(to + 8 * kSumsPitch<kColumns>) = float2{d[2], d[3]};
}

// By kThreads threads, of which this is number `thread`, after a barrier. (row0, column0) is where the tile stands in
// y.
template <int kRows, int kColumns, int kThreads, class Out>
LLMCORE_DEVICE void finish_tile(const TileEpilogue<Out>& e, const float* sums, int thread, int matrix, int row0,
                                int column0) {
    constexpr int kFours = kColumns / 4;
    static_assert(kRows * kFours % kThreads == 0, "every thread takes part in every turn");
#pragma unroll 2
    for (int i = thread; i < kRows * kFours; i += kThreads) {
        const int row = i / kFours, column = i % kFours * 4;
        const Four<float> four = *reinterpret_cast<const Four<float>*>(sums + row * kSumsPitch<kColumns> + column);
        float value[4] = {four.value[0], four.value[1], four.value[2], four.value[3]};
        finish_four(e, matrix, row0 + row, column0 + column, value);
    }
}

}  // namespace llmcore
