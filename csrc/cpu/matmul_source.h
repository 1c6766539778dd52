// What panels of the CPU matmul are cut from, and the transposition that packing them needs.
#pragma once

#include <cstdint>
#include <utility>

#include "core/inline.h"
#include "cpu/simd.h"

namespace llmcore {
namespace {

// An operand as panels see it: element (lane, k), `lanes` in all; a lane is a row of a or a column of b. The elements
// of one step or those of one lane are side by side in memory, and `stride` from one step or lane to the next.
template <class T>
struct PanelSource {
    const T* data;
    int64_t stride, lanes;
    bool adjacent_lanes;

    const T* at(int64_t lane, int64_t k) const {
        return adjacent_lanes ? data + k * stride + lane : data + lane * stride + k;
    }

    // Asks for one of `parts` parts of `width` lanes x `steps` steps, for the second-level cache. The processor's own
    // prefetchers lose their way between rows that are pages apart: without this packing reads 2 to 4 GB/s.
    LLMCORE_INLINE void prefetch(int64_t lane, int64_t width, int64_t k, int64_t steps, int64_t part,
                                 int64_t parts) const {
        if (width > lanes - lane) width = lanes - lane;
        int64_t rows = adjacent_lanes ? steps : width;
        int64_t bytes = (adjacent_lanes ? width : steps) * static_cast<int64_t>(sizeof(T));
        const char* first = reinterpret_cast<const char*>(at(lane, k));
        for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row)
            for (int64_t byte = 0; byte < bytes; byte += 64)
                __builtin_prefetch(first + row * stride * static_cast<int64_t>(sizeof(T)) + byte, 0, 2);
    }
};

// A block of a strip of rows of a as a kernel reads it: packed, or the operand itself where it is in order as it is.
// `rows` runs of `row_units` units of 32 bits, `stride` units from one to the next.
struct Strip {
    const float* units;
    int64_t stride, rows, row_units;

    // Asks for one of `parts` parts of it, for the second-level cache.
    LLMCORE_INLINE void prefetch(int64_t part, int64_t parts) const {
        constexpr int64_t kLine = 16;
        for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; ++row)
            for (int64_t unit = 0; unit < row_units; unit += kLine)
                __builtin_prefetch(units + row * stride + unit, 0, 2);
    }
};

template <size_t... i>
LLMCORE_INLINE Vec interleave_low(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (i % 2 * kLanes + i / 2)...);
}
template <size_t... i>
LLMCORE_INLINE Vec interleave_high(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (i % 2 * kLanes + kLanes / 2 + i / 2)...);
}

// Within each quarter of 16 bytes: the lower or upper two elements of a and b in turn; the lower or upper pairs of
// both.
template <size_t... i>
LLMCORE_INLINE Vec zip_low(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (i / 4 * 4 + i % 4 / 2 + i % 2 * kLanes)...);
}
template <size_t... i>
LLMCORE_INLINE Vec zip_high(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (i / 4 * 4 + 2 + i % 4 / 2 + i % 2 * kLanes)...);
}
template <size_t... i>
LLMCORE_INLINE Vec pair_low(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (i / 4 * 4 + i % 2 + i % 4 / 2 * kLanes)...);
}
template <size_t... i>
LLMCORE_INLINE Vec pair_high(Vec a, Vec b, std::index_sequence<i...>) {
    return __builtin_shufflevector(a, b, (i / 4 * 4 + 2 + i % 2 + i % 4 / 2 * kLanes)...);
}

// A perfect shuffle moves the highest bit of the row number to the end of the lane number, and the lane's highest bit
// to the end of the row number; after log2(kLanes) of them the two have changed places.
LLMCORE_INLINE void transpose(Vec (&rows)[kLanes]) {
    constexpr auto lanes = std::make_index_sequence<kLanes>();
    Vec shuffled[kLanes];
#pragma GCC unroll 4
    for (int stage = 1; stage < kLanes; stage *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < kLanes / 2; ++i) {
            shuffled[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2], lanes);
            shuffled[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2], lanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) rows[i] = shuffled[i];
    }
}

}  // namespace
}  // namespace llmcore
