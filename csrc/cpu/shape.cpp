// Moving elements on the CPU. A permutation runs over the two innermost axes of the result in tiles, so that a
// transpose uses the whole of every cache line that it reads.
#include "kernels/shape.h"

#include <cstring>

#include "core/inline.h"
#include "core/thread_pool.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kTile = 32;  // 32 x 32 floats, read and written: 8 KiB, well inside the first-level cache
constexpr int64_t kGrain = int64_t{1} << 15;  // elements of a task, as in elementwise.cpp

LLMCORE_INLINE int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// ----------------------------------------------------------------------------------------------------------------
// kernels

// y[r][c] = x[r * row_stride + c * column_stride] for `rows` rows of a y that is `columns` wide.
template <class Word>
void copy_tiles(Word* y, const Word* x, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
    if (column_stride == 1) {
        for (int64_t r = 0; r < rows; ++r) std::memcpy(y + r * columns, x + r * row_stride, columns * sizeof(Word));
        return;
    }
    for (int64_t first = 0; first < columns; first += kTile)
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = first; c < smaller(first + kTile, columns); ++c)
                y[r * columns + c] = x[r * row_stride + c * column_stride];
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class Word>
void permute(Backend, Word* y, const Word* x, Permutation axes) {
    const int64_t* size = axes.size;
    int64_t tiles = (size[3] + kTile - 1) / kTile, plane = size[3] * size[4];
    int64_t tasks = size[0] * size[1] * size[2] * tiles;
    if (tasks == 0 || plane == 0) return;
    int64_t per_task = smaller(kTile, size[3]) * size[4];
    parallel_for(tasks, per_task < kGrain ? kGrain / per_task : 1, [=](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
            int64_t outer = task / tiles, first = task % tiles * kTile;
            int64_t i2 = outer % axes.size[2], i1 = outer / axes.size[2] % axes.size[1];
            int64_t i0 = outer / axes.size[2] / axes.size[1];
            const Word* source = x + i0 * axes.stride[0] + i1 * axes.stride[1] + i2 * axes.stride[2];
            copy_tiles(y + outer * plane + first * axes.size[4], source + first * axes.stride[3],
                       smaller(kTile, axes.size[3] - first), axes.size[4], axes.stride[3], axes.stride[4]);
        }
    });
}

template <class Backend, class Word>
void copy_rows(Backend, Word* y, const Word* x, int64_t rows, int64_t columns, int64_t y_stride, int64_t x_stride) {
    if (columns == 0) return;
    parallel_for(rows, columns < kGrain ? kGrain / columns : 1, [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) std::memcpy(y + r * y_stride, x + r * x_stride, columns * sizeof(Word));
    });
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(permute, Cpu, uint16_t)
LLMCORE_INSTANTIATE(permute, Cpu, uint32_t)
LLMCORE_INSTANTIATE(copy_rows, Cpu, uint16_t)
LLMCORE_INSTANTIATE(copy_rows, Cpu, uint32_t)

}  // namespace llmcore
