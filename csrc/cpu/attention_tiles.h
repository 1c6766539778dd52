// Tiles of float in scratch memory: packing (with conversion, scaling, transposition) and products of tiles that stay
// in the caches. Rows of a tile are padded to whole vectors.
#pragma once

#include <utility>

#include "cpu/simd.h"

namespace llmcore {
namespace {

LLMCORE_INLINE int64_t round_to_vectors(int64_t n) {
    return (n + kLanes - 1) / kLanes * kLanes;
}

// ----------------------------------------------------------------------------------------------------------------
// lanes

template <int shift, int... lane>
LLMCORE_INLINE Vec rotate(Vec v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, v, ((lane + shift) % kLanes)...);
}

// The largest lane, in every lane.
template <int width = kLanes / 2>
LLMCORE_INLINE Vec max_of_lanes(Vec v) {
    v = max(v, rotate<width>(v, std::make_integer_sequence<int, kLanes>{}));
    if constexpr (width > 1)
        return max_of_lanes<width / 2>(v);
    else
        return v;
}

template <int width, int... lane>
LLMCORE_INLINE void swap_blocks(Vec& a, Vec& b, std::integer_sequence<int, lane...>) {
    Vec low = __builtin_shufflevector(a, b, ((lane & width) ? kLanes + lane - width : lane)...);
    Vec high = __builtin_shufflevector(a, b, ((lane & width) ? kLanes + lane : lane + width)...);
    a = low, b = high;
}

// Transposes kLanes x kLanes numbers in registers: swaps the off-diagonal halves, then those of each half, ...
template <int width = kLanes / 2>
LLMCORE_INLINE void transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
        if (!(i & width)) swap_blocks<width>(rows[i], rows[i + width], std::make_integer_sequence<int, kLanes>{});
    if constexpr (width > 1) transpose<width / 2>(rows);
}

// ----------------------------------------------------------------------------------------------------------------
// packing

// A head's rows lie in different pages, where the processor's own prefetchers do not follow. Without being asked for
// they cost 5 % of the forward pass and 15 % of the backward pass (256 keys, AVX-512). So packing asks for the row that
// comes so many later, and who will write rows asks for those.
constexpr int64_t kRowsAhead = 16;

template <bool kForWriting = false, class T>
LLMCORE_INLINE void prefetch_row(const T* row, int64_t C) {
    for (int64_t byte = 0; byte < C * static_cast<int64_t>(sizeof(T)); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(row) + byte, kForWriting, 2);
}

template <class T>
LLMCORE_INLINE void prefetch_for_writing(const T* x, int64_t stride, int64_t rows, int64_t C) {
    for (int64_t i = 0; i < rows; ++i) prefetch_row<true>(x + i * stride, C);
}

// tile[i][c] = x[i][c] * factor; columns from C to the next whole vector become 0.
template <class T>
LLMCORE_INLINE void pack_rows(float* tile, const T* x, int64_t stride, int64_t rows, int64_t C, float factor) {
    for (int64_t i = 0; i < rows; ++i, tile += round_to_vectors(C), x += stride) {
        if (i + kRowsAhead < rows) prefetch_row(x + kRowsAhead * stride, C);
        for_each_vector(C, [&](auto at) { store(tile + at.column, at.load(x) * factor); });
    }
}

// tile[c][i] = x[i][c] for c < C; rows of the tile are tile_stride apart, and columns from `rows` to the next whole
// vector become 0.
template <class T>
inline void pack_transposed(float* tile, int64_t tile_stride, const T* x, int64_t stride, int64_t rows, int64_t C) {
    for (int64_t i0 = 0; i0 < rows; i0 += kLanes) {
        for (int64_t i = i0 + kLanes; i < rows && i < i0 + 2 * kLanes; ++i) prefetch_row(x + i * stride, C);
        for_each_vector(C, [&](auto at) {
            Vec block[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) block[i] = i0 + i < rows ? at.load(x + (i0 + i) * stride) : Vec{};
            transpose(block);
#pragma GCC unroll 16
            for (int c = 0; c < kLanes; ++c)
                if (at.column + c < C) store(tile + (at.column + c) * tile_stride + i0, block[c]);
        });
    }
}

// x[i][c] = tile[i][c] * factor
template <class T>
LLMCORE_INLINE void unpack_rows(T* x, int64_t stride, const float* tile, int64_t rows, int64_t C, float factor) {
    for (int64_t i = 0; i < rows; ++i, tile += round_to_vectors(C), x += stride) {
        if (i + kRowsAhead < rows) prefetch_row<true>(x + kRowsAhead * stride, C);
        for_each_vector(C, [&](auto at) { at.store(x, load(tile + at.column) * factor); });
    }
}

// ----------------------------------------------------------------------------------------------------------------
// products

// 6 rows by 4 vectors of accumulators need 24 of 32 registers; with 16 registers 6 by 2 is what fits.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kVectorBytes == 64 ? 4 : 2;

// A number in all lanes. The empty asm keeps it in a register: gcc would otherwise fold the broadcast into each of the
// multiplications that use it, one load apiece, and the load ports become the limit.
LLMCORE_INLINE Vec broadcast(const float* p) {
    Vec v = splat(*p);
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#endif
    return v;
}

// c[i][0 .. kVectors) (+)= sum over k of a(i, k) * b[k][0 .. kVectors), i < kRows, a(i, k) = a[i][k] or a[k][i].
template <int kRows, int kVectors, bool kTransposedA>
inline void block_product(float* c, int64_t c_stride, const float* a, int64_t a_stride, const float* b,
                          int64_t b_stride, int64_t depth, bool accumulate) {
    Vec sums[kRows][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k, b += b_stride) {
        Vec b_k[kVectors];
#pragma GCC unroll 4
        for (int n = 0; n < kVectors; ++n) b_k[n] = load(b + n * kLanes);
#pragma GCC unroll 6
        for (int i = 0; i < kRows; ++i) {
            Vec a_ik = broadcast(kTransposedA ? a + k * a_stride + i : a + i * a_stride + k);
#pragma GCC unroll 4
            for (int n = 0; n < kVectors; ++n) sums[i][n] += a_ik * b_k[n];
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
        for (int n = 0; n < kVectors; ++n) {
            float* c_in = c + i * c_stride + n * kLanes;
            store(c_in, accumulate ? load(c_in) + sums[i][n] : sums[i][n]);
        }
}

template <int kRows, bool kTransposedA>
inline void row_product(float* c, int64_t c_stride, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                        int64_t vectors, int64_t depth, bool accumulate) {
    while (vectors > 0) {
        int64_t n = vectors >= kTileVectors ? kTileVectors : vectors >= 2 ? 2 : 1;
        auto product = n == kTileVectors ? block_product<kRows, kTileVectors, kTransposedA>
                       : n == 2          ? block_product<kRows, 2, kTransposedA>
                                         : block_product<kRows, 1, kTransposedA>;
        product(c, c_stride, a, a_stride, b, b_stride, depth, accumulate);
        c += n * kLanes, b += n * kLanes, vectors -= n;
    }
}

// The part of a product that is not known to be zero or unused, for one group of rows of c.
struct Part {
    int64_t vectors;         // of c, from column 0
    int64_t k_begin, k_end;  // of the sum
};

// c (rows, vectors) (+)= a (rows, depth) b (depth, vectors); with kTransposedA a is stored (depth, rows).
// part_of(first_row, last_row) -> Part.
template <bool kTransposedA, class PartOf>
inline void tile_product(float* c, int64_t c_stride, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                         int64_t rows, bool accumulate, const PartOf& part_of) {
    for (int64_t i = 0; i < rows; i += kTileRows) {
        int64_t n = rows - i < kTileRows ? rows - i : kTileRows;
        Part part = part_of(i, i + n - 1);
        if (part.vectors <= 0 || (accumulate && part.k_begin >= part.k_end)) continue;
        auto product = n == 6   ? row_product<6, kTransposedA>
                       : n == 5 ? row_product<5, kTransposedA>
                       : n == 4 ? row_product<4, kTransposedA>
                       : n == 3 ? row_product<3, kTransposedA>
                       : n == 2 ? row_product<2, kTransposedA>
                                : row_product<1, kTransposedA>;
        const float* a_in = kTransposedA ? a + part.k_begin * a_stride + i : a + i * a_stride + part.k_begin;
        product(c + i * c_stride, c_stride, a_in, a_stride, b + part.k_begin * b_stride, b_stride, part.vectors,
                part.k_end - part.k_begin, accumulate);
    }
}

}  // namespace
}  // namespace llmcore
