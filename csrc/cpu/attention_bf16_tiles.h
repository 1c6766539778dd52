// Tiles of bf16 for processors that multiply it: packing, and products with float sums.
//
// A sum runs over *units*: 32 bits with two bf16 that are neighbours along it. The left operand of a product is stored
// by rows, a[row * a_stride + unit], the right one by units, b[unit * b_stride + column]: what the tile instructions
// (AMX) want, and what suits vdpbf16ps as well. All sizes are multiples of kBlock, filled up with zeros.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "cpu/attention_tiles.h"
#if defined(__AMX_BF16__)
#include "cpu/amx_tiles.h"
#endif

namespace llmcore {
namespace {

constexpr int64_t kBlock = 32;          // rows, columns and elements of a sum that are multiplied at once
constexpr int64_t kUnits = kBlock / 2;  // also the units of a vector

LLMCORE_INLINE int64_t round_to_blocks(int64_t n) {
    return (n + kBlock - 1) / kBlock * kBlock;
}

LLMCORE_INLINE void store_units(uint32_t* p, VecUint units) {
    std::memcpy(p, &units, sizeof units);
}

// ----------------------------------------------------------------------------------------------------------------
// packing

// Rows of bf16 in memory, of which [begin, end) may be read; the others, and columns from C on, count as zero.
struct Rows {
    const bf16* x;
    int64_t stride, begin, end, C;

    bool has(int64_t row) const { return row >= begin && row < end; }

    // The units (2u, 2u + 1) of a row, for 16 of them from column c on.
    VecUint units(int64_t row, int64_t c) const {
        int64_t n = has(row) ? C - c : 0;
        __mmask32 mask = n >= 32 ? ~0u : n <= 0 ? 0u : (1u << n) - 1;
        return reinterpret_cast<VecUint>(_mm512_maskz_loadu_epi16(mask, x + row * stride + c));
    }

    // The units (row, row + 1) of 16 columns from c on.
    VecUint row_pairs(int64_t row, int64_t c) const { return halves(row, c) | halves(row + 1, c) << 16; }

  private:
    VecUint halves(int64_t row, int64_t c) const {
        int64_t n = has(row) ? C - c : 0;
        __mmask16 mask = static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1);
        __m256i values = _mm256_maskz_loadu_epi16(mask, x + row * stride + c);
        return __builtin_convertvector(reinterpret_cast<VecHalf>(values), VecUint);
    }
};

LLMCORE_INLINE void transpose_units(VecUint (&block)[16]) {
    transpose(reinterpret_cast<Vec(&)[16]>(block));
}

// a[i][u] = the unit u of row first + i, for i < count: a left operand that is summed over columns.
inline void pack_by_rows(uint32_t* a, const Rows& rows, int64_t first, int64_t count) {
    int64_t units = round_to_blocks(rows.C) / 2;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t u = 0; u < units; u += 16) store_units(a + i * units + u, rows.units(first + i, 2 * u));
}

// b[u][i] = the unit u of row first + i, for i < count: a right operand that is summed over columns.
inline void pack_by_units(uint32_t* b, const Rows& rows, int64_t first, int64_t count) {
    for (int64_t u = 0; u < round_to_blocks(rows.C) / 2; u += 16)
        for (int64_t i = 0; i < count; i += 16) {
            VecUint block[16];
            for (int k = 0; k < 16; ++k) block[k] = rows.units(first + i + k, 2 * u);
            transpose_units(block);
            for (int k = 0; k < 16; ++k) store_units(b + (u + k) * count + i, block[k]);
        }
}

// b[r][c] = the rows first + 2r and first + 2r + 1 at column c, for 2r < count: a right operand that is summed over
// rows.
inline void pack_row_pairs(uint32_t* b, const Rows& rows, int64_t first, int64_t count) {
    int64_t columns = round_to_blocks(rows.C);
    for (int64_t r = 0; r < count / 2; ++r)
        for (int64_t c = 0; c < columns; c += 16) store_units(b + r * columns + c, rows.row_pairs(first + 2 * r, c));
}

// a[c][r] = the same: a left operand that is summed over rows.
inline void pack_columns(uint32_t* a, const Rows& rows, int64_t first, int64_t count) {
    for (int64_t c = 0; c < round_to_blocks(rows.C); c += 16)
        for (int64_t r = 0; r < count / 2; r += 16) {
            VecUint block[16];
            for (int k = 0; k < 16; ++k) block[k] = rows.row_pairs(first + 2 * (r + k), c);
            transpose_units(block);
            for (int k = 0; k < 16; ++k) store_units(a + (c + k) * (count / 2) + r, block[k]);
        }
}

// Two vectors of floats as bf16: the first in the lower half, the second in the upper half.
typedef uint16_t TwoRows __attribute__((vector_size(64)));

LLMCORE_INLINE TwoRows round_rows(Vec first, Vec second) {
    return reinterpret_cast<TwoRows>(
        _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
}

template <int... lane>
LLMCORE_INLINE void store_two_rows(uint32_t* a, int64_t stride, TwoRows rows, std::integer_sequence<int, lane...>) {
    VecHalf first = __builtin_shufflevector(rows, rows, lane...);
    VecHalf second = __builtin_shufflevector(rows, rows, (16 + lane)...);
    std::memcpy(a, &first, sizeof first);
    std::memcpy(a + stride, &second, sizeof second);
}

// ... one below the other, `stride` units apart.
LLMCORE_INLINE void store_two_rows(uint32_t* a, int64_t stride, TwoRows rows) {
    store_two_rows(a, stride, rows, std::make_integer_sequence<int, 16>{});
}

template <int... lane>
LLMCORE_INLINE TwoRows interleave(TwoRows rows, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(rows, rows, (lane / 2 + lane % 2 * 16)...);
}

// ... as 16 units (first, second).
LLMCORE_INLINE void store_row_pairs(uint32_t* b, TwoRows rows) {
    store_units(b, reinterpret_cast<VecUint>(interleave(rows, std::make_integer_sequence<int, 32>{})));
}

// x[i][c] = transposed[c][i] * factor[i] for i < rows, c < C; `columns` floats from one row of `transposed` to the
// next.
inline void write_transposed(bf16* x, int64_t stride, const float* transposed, int64_t columns, const float* factor,
                             int64_t rows, int64_t C) {
    for (int64_t i0 = 0; i0 < rows; i0 += kLanes)
        for_each_vector(C, [&](auto at) {
            Vec block[kLanes], scale = load(factor + i0);
            for (int k = 0; k < kLanes; ++k) block[k] = load(transposed + (at.column + k) * columns + i0) * scale;
            transpose(block);
            for (int i = 0; i < kLanes && i0 + i < rows; ++i) at.store(x + (i0 + i) * stride, block[i]);
        });
}

// ----------------------------------------------------------------------------------------------------------------
// products

#if defined(__AMX_BF16__)
inline void begin_products() {
    begin_tiles();
}
inline void end_products() {
    end_tiles();
}

// c (kBlock, kBlock) (+)= a b: four tiles of sums, two of a and two of b, so four products for four loads.
inline void multiply_block(float* c, int64_t c_stride, const uint32_t* a, int64_t a_stride, const uint32_t* b,
                           int64_t b_stride, int64_t units, bool add) {
    int64_t c_bytes = c_stride * 4, a_bytes = a_stride * 4, b_bytes = b_stride * 4;
    if (add) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + 16, c_bytes);
        _tile_loadd(2, c + 16 * c_stride, c_bytes);
        _tile_loadd(3, c + 16 * c_stride + 16, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t u = 0; u < units; u += kUnits, a += kUnits, b += kUnits * b_stride) {
        _tile_loadd(6, b, b_bytes);
        _tile_loadd(4, a, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + 16, b_bytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * a_stride, a_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    _tile_stored(2, c + 16 * c_stride, c_bytes);
    _tile_stored(3, c + 16 * c_stride + 16, c_bytes);
}
#else
inline void begin_products() {}
inline void end_products() {}

// The same with vdpbf16ps: 8 rows of 2 vectors at a time.
inline void multiply_block(float* c, int64_t c_stride, const uint32_t* a, int64_t a_stride, const uint32_t* b,
                           int64_t b_stride, int64_t units, bool add) {
    constexpr int kRows = 8;
    for (int64_t i = 0; i < kBlock; i += kRows, a += kRows * a_stride, c += kRows * c_stride) {
        __m512 sums[kRows][2];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
            for (int n = 0; n < 2; ++n)
                sums[r][n] = add ? _mm512_loadu_ps(c + r * c_stride + 16 * n) : _mm512_setzero_ps();
        for (int64_t u = 0; u < units; ++u) {
            __m512bh b_low = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + u * b_stride));
            __m512bh b_high = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + u * b_stride + 16));
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                __m512bh a_r = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[r * a_stride + u])));
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a_r, b_low);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], a_r, b_high);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
            for (int n = 0; n < 2; ++n) _mm512_storeu_ps(c + r * c_stride + 16 * n, sums[r][n]);
    }
}
#endif

// c (rows, columns) (+)= a b
inline void multiply(float* c, int64_t c_stride, const uint32_t* a, int64_t a_stride, const uint32_t* b,
                     int64_t b_stride, int64_t rows, int64_t columns, int64_t units, bool add) {
    for (int64_t i = 0; i < rows; i += kBlock)
        for (int64_t j = 0; j < columns; j += kBlock)
            multiply_block(c + i * c_stride + j, c_stride, a + i * a_stride, a_stride, b + j, b_stride, units, add);
}

}  // namespace
}  // namespace llmcore
