// Sums over the rows of a matrix, added to a row of floats: gradients of biases. In two stages, in an order that
// depends on the number of rows alone. A block of the first stage sums 128 columns over its part of the rows: each of
// its eight warps every eighth row, then the eight in order. The second stage adds the parts in order.
#pragma once

#include <cstdint>

#include "core/backend.h"
#include "cuda/fours.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"

namespace llmcore {

constexpr int kColumnsPerBlock = 128, kRowWarps = 8;  // four columns to a lane

inline int64_t row_parts(int64_t rows) {
    const int64_t per_part = 128, most = 128;  // 128 x 6 blocks are enough for a GPU at 768 columns
    const int64_t parts = (rows + per_part - 1) / per_part;
    return parts < most ? parts : most;
}

inline size_t column_sums_workspace(int64_t rows, int64_t columns) {
    return static_cast<size_t>(row_parts(rows) * columns);
}

// load(values, row, column, count) adds the first `count` of four columns of a row to `values`, which are zero.
// partial (parts, columns) may be null: then load is called for what else it does.
template <class Load>
__global__ void __launch_bounds__(kRowWarps * 32)
    sum_row_parts_kernel(float* partial, int64_t rows, int64_t columns, int64_t parts, Load load) {
    LLMCORE_SHARED(float[kRowWarps][kColumnsPerBlock], warp_sums);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int64_t column = int64_t(blockIdx.x) * kColumnsPerBlock + lane * 4;
    const int count = columns - column < 4 ? int(columns - column) : 4;
    const int64_t first = rows * blockIdx.y / parts, last = rows * (blockIdx.y + 1) / parts;
    float sums[4] = {};
    if (count > 0)
        for (int64_t row = first + warp; row < last; row += kRowWarps) {
            float values[4] = {};
            load(values, row, column, count);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[i] += values[i];
        }
    if (partial == nullptr) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) warp_sums[warp][lane * 4 + i] = sums[i];
    __syncthreads();
    const int64_t mine = int64_t(blockIdx.x) * kColumnsPerBlock + threadIdx.x;
    if (threadIdx.x >= kColumnsPerBlock || mine >= columns) return;
    float sum = 0.0f;
    for (int i = 0; i < kRowWarps; ++i) sum += warp_sums[i][threadIdx.x];
    partial[blockIdx.y * columns + mine] = sum;
}

// A template so that every family may include it: two definitions of a function with a body would clash.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    add_row_parts_kernel(float* total, const float* partial, int64_t parts, int64_t columns) {
    const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
    for (int64_t i = 0; i < parts; ++i) sum += partial[i * columns + column];
    total[column] += sum;
}

// total[c] += sum over rows of load(row, c). total may be null. rows and columns are at least 1.
template <class Load>
void add_columns(const Cuda& cuda, float* total, float* workspace, int64_t rows, int64_t columns, const Load& load) {
    const int64_t parts = row_parts(rows);
    float* partial = total != nullptr ? workspace : nullptr;
    const unsigned across = static_cast<unsigned>((columns + kColumnsPerBlock - 1) / kColumnsPerBlock);
    launch({dim3(across, static_cast<unsigned>(parts)), kRowWarps * 32, 0, cuda.stream}, sum_row_parts_kernel<Load>,
           partial, rows, columns, parts, load);
    if (total != nullptr)
        launch({across, kColumnsPerBlock, 0, cuda.stream}, add_row_parts_kernel<kColumnsPerBlock>, total, partial,
               parts, columns);
}

// ---------------------------------------------------------------------------------------------------------------------
// sums that blocks of rows have left

struct PartialSums {
    const float* sums;  // (rows, columns)
    int64_t columns;
    bool whole_fours;

    LLMCORE_DEVICE void operator()(float (&values)[4], int64_t row, int64_t column, int count) const {
        add_four(values, sums + row * columns + column, count, whole_fours);
    }
};

// total[c] += the sum of column c of sums (rows, columns), behind which is room for the parts of this sum.
inline void add_partial_sums(const Cuda& cuda, float* total, float* sums, int64_t rows, int64_t columns) {
    const bool whole_fours = columns % 4 == 0 && on_four(sums);
    add_columns(cuda, total, sums + rows * columns, rows, columns, PartialSums{sums, columns, whole_fours});
}

inline size_t partial_sums_workspace(int64_t rows, int64_t columns) {
    return static_cast<size_t>(rows * columns) + column_sums_workspace(rows, columns);
}

}  // namespace llmcore
