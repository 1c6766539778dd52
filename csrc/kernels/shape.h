// Moving elements without changing them. Word is an unsigned integer as wide as the element: uint16_t for bf16,
// uint32_t for float and int32.
#pragma once

#include <cstdint>

namespace llmcore {

inline constexpr int kMaxPermuteDims = 5;

// The axes of the result, outermost first; sizes of 1 fill up in front.
struct Permutation {
    int64_t size[kMaxPermuteDims];
    int64_t stride[kMaxPermuteDims];  // of x, in elements, along each axis of the result
};

// y[i0][i1][i2][i3][i4] = x[i0 * stride[0] + ... + i4 * stride[4]]; y is contiguous.
template <class Backend, class Word>
void permute(Backend, Word* y, const Word* x, Permutation axes);

// y[r * y_stride + c] = x[r * x_stride + c] for r < rows, c < columns: what concat and split are made of.
template <class Backend, class Word>
void copy_rows(Backend, Word* y, const Word* x, int64_t rows, int64_t columns, int64_t y_stride, int64_t x_stride);

}  // namespace llmcore
