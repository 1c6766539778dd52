// The inner parts of the CPU matmul for bf16 operands on processors that multiply bf16 (AVX512_BF16): as
// cpu/matmul_panel.h, but a unit of a panel is the 32 bits of a pair of steps, (k, k + 1). vdpbf16ps multiplies the
// pairs of 16 lanes and adds both products to 16 floats. A missing second step is zero in both operands. Subnormal
// inputs and sums count as zero there; other roundings are as in float.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/bf16.h"
#include "core/inline.h"
#include "cpu/matmul_source.h"
#include "cpu/simd.h"

namespace llmcore {
namespace {

typedef VecUint Pairs;  // 16 lanes or 16 pairs of steps

// ----------------------------------------------------------------------------------------------------------------
// packing

// Of n elements (0 and less: none), the mask of `width` that are there.
LLMCORE_INLINE uint32_t first_bits(int64_t n, int width) {
    return n <= 0 ? 0 : n >= width ? static_cast<uint32_t>((uint64_t{1} << width) - 1) : (1u << n) - 1;
}

// 16 pairs of steps of one lane, side by side in memory.
LLMCORE_INLINE Pairs load_steps(const bf16* p, uint32_t mask) {
    return reinterpret_cast<Pairs>(_mm512_maskz_loadu_epi16(mask, p));
}

// 16 lanes of one step, in the lower half of each unit.
LLMCORE_INLINE Pairs load_lanes(const bf16* p, uint32_t mask) {
    __m256i lanes = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p);
    return __builtin_convertvector(reinterpret_cast<VecHalf>(lanes), Pairs);
}

LLMCORE_INLINE void transpose(Pairs (&rows)[16]) {
    transpose(reinterpret_cast<Vec(&)[16]>(rows));
}

// 16 lanes x 32 steps of an operand; `lanes` and `steps` of them are there, the others become zero. By pairs:
// block[i] holds 16 lanes of the pair i; by lanes: block[i] holds 16 pairs of the lane i.
template <bool whole, class T>
LLMCORE_INLINE void load_block(Pairs (&block)[16], const T* source, int64_t stride, bool adjacent_lanes, int64_t lanes,
                               int64_t steps, bool by_pairs) {
    if (whole) lanes = 16, steps = 32;  // known when this is compiled
    if (adjacent_lanes) {
        uint32_t mask = first_bits(lanes, 16);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            uint32_t even = 2 * i < steps ? mask : 0, odd = 2 * i + 1 < steps ? mask : 0;
            const T* row = source + 2 * i * stride;
            block[i] = load_lanes(row, even) | load_lanes(row + stride, odd) << 16;
        }
    } else {
        uint32_t mask = first_bits(steps, 32);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) block[i] = load_steps(source + i * stride, i < lanes ? mask : 0);
    }
    if (adjacent_lanes != by_pairs) transpose(block);
}

// Calls store_row(i, block[i]) for the 16 rows of a block that starts at (lane, k) and ends before k + steps.
template <class T, class StoreRow>
LLMCORE_INLINE void pack_block(const PanelSource<T>& source, int64_t lane, int64_t k, int64_t steps, bool by_pairs,
                               const StoreRow& store_row) {
    Pairs block[16];
    const T* first = source.at(lane, k);
    int64_t lanes = source.lanes - lane;
    if (lanes >= 16 && steps >= 32)
        load_block<true>(block, first, source.stride, source.adjacent_lanes, lanes, steps, by_pairs);
    else
        load_block<false>(block, first, source.stride, source.adjacent_lanes, lanes, steps, by_pairs);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) store_row(i, reinterpret_cast<Vec>(block[i]));
}

LLMCORE_INLINE int64_t pairs_of(int64_t K) {
    return (K + 1) / 2;
}

// panel[pair * width + lane] for ceil(K / 2) pairs.
template <int width, class T>
void pack_by_pairs(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K, int64_t pairs) {
    for (int first = 0; first < width; first += 16)
        for (int64_t pair = 0; pair < pairs; pair += 16) {
            float* out = panel + pair * width + first;
            pack_block(source, lane + first, k + 2 * pair, K - 2 * pair, true, [=](int i, Vec row) {
                if (pair + i < pairs) store(out + i * width, row);
            });
        }
}

// ----------------------------------------------------------------------------------------------------------------
// the kernel

constexpr int kBf16Rows = 14, kBf16Columns = 32;  // 28 sums, 2 vectors of b, 1 of a: 31 of 32 registers

LLMCORE_INLINE Vec multiply_pairs(Vec sums, Pairs a, Pairs b) {
    return reinterpret_cast<Vec>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}

// c[r, j] (+)= sum over pairs of a[pair, r] . b[pair, j] for r < rows, j < kBf16Columns.
template <int rows>
__attribute__((noinline)) void multiply_pair_rows(float* c, int64_t c_stride, const float* a, const float* b,
                                                  int64_t pairs, bool add) {
    Vec sums[rows][2] = {};
    for (int64_t k = 0; k < pairs; ++k, a += 16, b += kBf16Columns) {
        __builtin_prefetch(b + 8 * kBf16Columns);
        __builtin_prefetch(b + 8 * kBf16Columns + 16);
        Pairs b_low = float_to_bits(load(b)), b_high = float_to_bits(load(b + 16));
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            // In a register: otherwise the compiler reads a[r] twice, as in cpu/matmul_panel.h.
            Pairs a_r = reinterpret_cast<Pairs>(_mm512_set1_ps(a[r]));
            asm("" : "+v"(a_r));
            sums[r][0] = multiply_pairs(sums[r][0], a_r, b_low);
            sums[r][1] = multiply_pairs(sums[r][1], a_r, b_high);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r, c += c_stride) {
        store(c, add ? load(c) + sums[r][0] : sums[r][0]);
        store(c + 16, add ? load(c + 16) + sums[r][1] : sums[r][1]);
    }
}

template <int compiled_rows = kBf16Rows>
LLMCORE_INLINE void multiply_pair_strip(int64_t rows, float* c, int64_t c_stride, const float* a, const float* b,
                                        int64_t pairs, bool add) {
    if constexpr (compiled_rows > 1)
        if (rows < compiled_rows) return multiply_pair_strip<compiled_rows - 1>(rows, c, c_stride, a, b, pairs, add);
    multiply_pair_rows<compiled_rows>(c, c_stride, a, b, pairs, add);
}

// The kernel as cpu/matmul.cpp sees it. Blocks as in cpu/matmul_panel.h, counted in pairs.
struct Bf16Kernel {
    static constexpr int kSteps = 2, kStrip = kBf16Rows, kStripLanes = 16, kPanel = kBf16Columns;
    static constexpr int64_t kGrain = 32;
    static constexpr int64_t kBlockK = 768, kPassK = 768, kTileUnits = 384 * 512, kTileColumns = 512, kTileRows = 560;

    static void begin() {}
    static void end() {}
    template <class T>
    static Strip pack_a(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
        pack_by_pairs<16>(panel, source, lane, k, K, pairs_of(K));
        return {panel, 16};
    }
    template <class T>
    static void pack_b(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
        pack_by_pairs<kBf16Columns>(panel, source, lane, k, K, pairs_of(K));
    }
    static void multiply(int64_t rows, float* c, int64_t c_stride, Strip a, const float* b, int64_t K, bool add) {
        multiply_pair_strip(rows, c, c_stride, a.units, b, pairs_of(K), add);
    }
};

}  // namespace
}  // namespace llmcore
