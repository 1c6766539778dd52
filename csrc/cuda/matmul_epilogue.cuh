// What follows a tile's float sums, for every matmul kernel: y = residual + activation(sums + bias), or y += that; or,
// on the way back, y = sums * activation'(slope_at) and the sums of its columns. Four adjacent columns at a time, so
// that a warp reads and writes whole lines of memory.
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
    int64_t row_step;  // of every matrix of y's shape
    bool accumulate, backward;
    float* column_sums;  // (tiles along M, N), for fused.dbias; or null
    bool whole_fours;    // row_step and every address allow four elements at once
};

template <class Out>
TileEpilogue<Out> tile_epilogue(Out* y, const MatmulProblem& problem, const MatmulEpilogue<Out>& fused,
                                float* column_sums = nullptr) {
    const bool whole_fours = problem.y_row() % 4 == 0 && on_four(y) && on_four(fused.bias) &&
                             on_four(fused.pre_activation) && on_four(fused.residual) && on_four(fused.slope_at);
    return {y,
            fused,
            static_cast<int>(problem.M),
            static_cast<int>(problem.N),
            problem.y_row(),
            problem.accumulate,
            fused.is_backward(),
            column_sums,
            whole_fours};
}

// ---------------------------------------------------------------------------------------------------------------------
// four columns of a row

// From the sums of columns `column` to `column` + 3 of one row to y. `column` is a multiple of four.
template <class Out>
LLMCORE_DEVICE void finish_four(const TileEpilogue<Out>& e, int matrix, int row, int column, float (&value)[4]) {
    if (row >= e.M || column >= e.N) return;
    const int count = e.N - column < 4 ? e.N - column : 4;
    const bool whole = e.whole_fours && count == 4;
    const size_t at = (size_t(matrix) * size_t(e.M) + size_t(row)) * size_t(e.row_step) + size_t(column);
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
    store_at_once(to, {d[0], d[1]});
    store_at_once(to + 8 * kSumsPitch<kColumns>, {d[2], d[3]});
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
        float value[4];
        load_at_once(value, sums + row * kSumsPitch<kColumns> + column);
        finish_four(e, matrix, row0 + row, column0 + column, value);
    }
}

// The way back through an activation, by all kThreads threads of a block, after a barrier. A thread stays in its four
// columns: it adds up its rows of them, then the block adds up the threads in their order.
template <int kRows, int kColumns, int kThreads, class Out>
LLMCORE_DEVICE void finish_tile_backward(const TileEpilogue<Out>& e, float* sums, int tile_m, int row0, int column0) {
    constexpr int kFours = kColumns / 4, kTurn = kThreads / kFours;
    static_assert(kThreads % kFours == 0 && kColumns <= kThreads, "a thread keeps its columns, and can have one alone");
    const int thread = int(threadIdx.x), in_tile = thread % kFours * 4, column = column0 + in_tile;
    const int count = e.N - column < 4 ? e.N - column : 4;
    const bool whole = e.whole_fours && count == 4;
    float totals[4] = {};
    for (int row = thread / kFours; row < kRows && row0 + row < e.M && count > 0; row += kTurn) {
        float value[4];
        load_at_once(value, sums + row * kSumsPitch<kColumns> + in_tile);
        const size_t at = size_t(row0 + row) * size_t(e.row_step) + size_t(column);
        if (e.fused.activation != Activation::kNone) {
            float before[4] = {};
            add_four(before, e.fused.slope_at + at, count, whole);
#pragma unroll
            for (int i = 0; i < 4; ++i) value[i] *= activation_slope(e.fused.activation, before[i]);
        }
        store_four(e.y + at, value, count, whole);
#pragma unroll
        for (int i = 0; i < 4; ++i) totals[i] += value[i];
    }
    if (e.column_sums == nullptr) return;
    __syncthreads();  // the tile has been read, and becomes the threads' totals
    store_at_once(sums + thread / kFours * kSumsPitch<kColumns> + in_tile, totals);
    __syncthreads();
    if (thread >= kColumns || column0 + thread >= e.N) return;
    float total = 0.0f;
    for (int turn = 0; turn < kTurn; ++turn) total += sums[turn * kSumsPitch<kColumns> + thread];
    e.column_sums[size_t(tile_m) * size_t(e.N) + size_t(column0 + thread)] = total;
}

}  // namespace llmcore
