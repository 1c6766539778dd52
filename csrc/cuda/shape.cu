// Moving elements. A permutation that leaves the last axis last, and a copy of rows, read and write along memory as
// they are. For the others a block moves a tile of 32 x 32 through shared memory: it reads along the axis that is
// contiguous in x and writes along the one that is in y.
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/map.cuh"
#include "cuda/shared.cuh"
#include "kernels/shape.h"

namespace llmcore {
namespace {

constexpr int kTile = 32, kTileRows = 8;  // a block of 32 x 8 threads takes four rows each

// ---------------------------------------------------------------------------------------------------------------------
// kernels

template <class Word>
__global__ void __launch_bounds__(kMapThreads) permute_kernel(Word* y, const Word* x, Permutation axes, int64_t n) {
    for (int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kMapThreads) {
        int64_t rest = i, at = 0;
#pragma unroll
        for (int axis = kMaxPermuteDims - 1; axis >= 0; --axis) {
            at += rest % axes.size[axis] * axes.stride[axis];
            rest /= axes.size[axis];
        }
        y[i] = x[at];
    }
}

// How y's axes are cut into tiles: `fast` is the axis along which x is contiguous, the last one that of y.
struct TileCut {
    Permutation axes;
    int64_t y_stride[kMaxPermuteDims];
    int fast;
    int64_t fast_tiles, last_tiles, tiles;
};

template <class Word>
__global__ void __launch_bounds__(kTile* kTileRows) transpose_kernel(Word* y, const Word* x, TileCut cut) {
    LLMCORE_SHARED(Word[kTile][kTile + 1], tile);  // one more column: a column of the tile lies in 32 banks
    constexpr int kLast = kMaxPermuteDims - 1;
    const int column = int(threadIdx.x) % kTile, row = int(threadIdx.x) / kTile;
    const int64_t fast_size = cut.axes.size[cut.fast], last_size = cut.axes.size[kLast];
    for (int64_t t = blockIdx.x; t < cut.tiles; t += gridDim.x) {
        const int64_t fast = t % cut.fast_tiles * kTile, last = t / cut.fast_tiles % cut.last_tiles * kTile;
        int64_t rest = t / cut.fast_tiles / cut.last_tiles, from = 0, to = 0;
#pragma unroll
        for (int axis = kLast - 1; axis >= 0; --axis) {  // the other axes
            if (axis == cut.fast) continue;
            const int64_t index = rest % cut.axes.size[axis];
            rest /= cut.axes.size[axis];
            from += index * cut.axes.stride[axis];
            to += index * cut.y_stride[axis];
        }
        for (int r = row; r < kTile; r += kTileRows)
            if (last + r < last_size && fast + column < fast_size)
                tile[r][column] = x[from + (last + r) * cut.axes.stride[kLast] + fast + column];
        __syncthreads();
        for (int r = row; r < kTile; r += kTileRows)
            if (fast + r < fast_size && last + column < last_size)
                y[to + (fast + r) * cut.y_stride[cut.fast] + last + column] = tile[column][r];
        __syncthreads();  // before the next tile takes its place
    }
}

template <class Word>
__global__ void __launch_bounds__(kMapThreads)
    copy_rows_kernel(Word* y, const Word* x, int64_t n, int64_t columns, int64_t y_stride, int64_t x_stride) {
    for (int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kMapThreads) {
        const int64_t row = i / columns, column = i % columns;
        y[row * y_stride + column] = x[row * x_stride + column];
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// how a permutation is done

int64_t numel(const Permutation& axes) {
    int64_t n = 1;
    for (int64_t size : axes.size) n *= size;
    return n;
}

TileCut cut_into_tiles(const Permutation& axes, int fast) {
    constexpr int kLast = kMaxPermuteDims - 1;
    TileCut cut{axes, {}, fast, (axes.size[fast] + kTile - 1) / kTile, (axes.size[kLast] + kTile - 1) / kTile, 0};
    int64_t stride = 1, others = 1;
    for (int axis = kLast; axis >= 0; --axis) {
        cut.y_stride[axis] = stride;
        stride *= axes.size[axis];
        if (axis != fast && axis != kLast) others *= axes.size[axis];
    }
    cut.tiles = cut.fast_tiles * cut.last_tiles * others;
    return cut;
}

// The axis other than the last along which x is contiguous, -1 if there is none.
int contiguous_axis(const Permutation& axes) {
    for (int axis = 0; axis < kMaxPermuteDims - 1; ++axis)
        if (axes.stride[axis] == 1 && axes.size[axis] > 1) return axis;
    return -1;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class Word>
void permute(Backend backend, Word* y, const Word* x, Permutation axes) {
    const int64_t n = numel(axes);
    if (n == 0) return;
    const int fast = contiguous_axis(axes);
    if (fast < 0 || axes.stride[kMaxPermuteDims - 1] == 1) {
        launch(map_shape(backend, n), permute_kernel<Word>, y, x, axes, n);
        return;
    }
    const TileCut cut = cut_into_tiles(axes, fast);
    launch(map_shape(backend, cut.tiles * kMapThreads), transpose_kernel<Word>, y, x, cut);
}

template <class Backend, class Word>
void copy_rows(Backend backend, Word* y, const Word* x, int64_t rows, int64_t columns, int64_t y_stride,
               int64_t x_stride) {
    const int64_t n = rows * columns;
    if (n > 0) launch(map_shape(backend, n), copy_rows_kernel<Word>, y, x, n, columns, y_stride, x_stride);
}

LLMCORE_INSTANTIATE(permute, Cuda, uint16_t)
LLMCORE_INSTANTIATE(permute, Cuda, uint32_t)
LLMCORE_INSTANTIATE(copy_rows, Cuda, uint16_t)
LLMCORE_INSTANTIATE(copy_rows, Cuda, uint32_t)

}  // namespace llmcore
