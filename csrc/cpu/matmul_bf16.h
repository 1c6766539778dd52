// The inner parts of the CPU matmul for bf16 operands on processors that multiply bf16 (AVX512_BF16): as
// cpu/matmul_panel.h, but a unit of a panel is 32 bits with two bf16. vdpbf16ps multiplies the units of 16 lanes, two
// products each, and adds both to 16 floats. What is missing is zero in both operands. Subnormal inputs and sums count
// as zero there; other roundings are as in float.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>

#include "core/bf16.h"
#include "core/inline.h"
#include "cpu/matmul_source.h"
#include "cpu/simd.h"

namespace llmcore {
namespace {

typedef VecUint Units;  // 16 of a lane or of 16 lanes

// ----------------------------------------------------------------------------------------------------------------
// packing

// Of n elements (0 and less: none), the mask of those among the first `width` that are there.
LLMCORE_INLINE uint32_t first_bits(int64_t n, int width) {
    return n <= 0 ? 0 : n >= width ? static_cast<uint32_t>((uint64_t{1} << width) - 1) : (1u << n) - 1;
}

// 16 elements, each in the lower half of a unit.
LLMCORE_INLINE Units load_halves(const bf16* p, uint32_t mask) {
    __m256i halves = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p);
    return __builtin_convertvector(reinterpret_cast<VecHalf>(halves), Units);
}

// bf16 by bf16: a unit is a pair of steps, (k, k + 1).
struct PairedSteps {
    static constexpr int kSteps = 2;

    // 16 units of one lane whose steps are side by side; `steps` are there.
    static LLMCORE_INLINE Units load_lane(const bf16* p, int64_t steps) {
        return reinterpret_cast<Units>(_mm512_maskz_loadu_epi16(first_bits(steps, 32), p));
    }
    // The units of 16 lanes that are side by side at each of two steps.
    static LLMCORE_INLINE Units load_unit(const bf16* p, int64_t stride, uint32_t lanes, int64_t steps) {
        return load_halves(p, steps > 0 ? lanes : 0) | load_halves(p + stride, steps > 1 ? lanes : 0) << 16;
    }
};

// float by bf16 (the gradient of logits by x or the weight): a unit is one step. The float is split into two bf16, the
// upper 8 bits of its mantissa and the next 8 (relative error 2^-17); the bf16 stands there twice.
struct SplitSteps {
    static constexpr int kSteps = 1;

    static LLMCORE_INLINE Units load(const float* p, uint32_t mask) {
        Vec x = reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p));
        Units upper = float_to_bits(x) & 0xffff0000u;
        Vec rest = x - bits_to_float(upper);
        rest = select(rest == rest, rest, Vec{});  // infinity - infinity
        __m256bh lower = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(rest));
        return upper | __builtin_convertvector(reinterpret_cast<VecHalf>(lower), Units);
    }
    static LLMCORE_INLINE Units load(const bf16* p, uint32_t mask) {
        Units halves = load_halves(p, mask);
        return halves | halves << 16;
    }
    template <class T>
    static LLMCORE_INLINE Units load_lane(const T* p, int64_t steps) {
        return load(p, first_bits(steps, 16));
    }
    template <class T>
    static LLMCORE_INLINE Units load_unit(const T* p, int64_t, uint32_t lanes, int64_t steps) {
        return load(p, steps > 0 ? lanes : 0);
    }
};

// 16 lanes x 16 units of an operand; `lanes` and `steps` of them are there, the others become zero. By units: block[i]
// is the unit i of 16 lanes; by lanes: block[i] is 16 units of the lane i.
template <class Of, bool whole, class T>
LLMCORE_INLINE void load_block(Units (&block)[16], const T* source, int64_t stride, bool adjacent_lanes, int64_t lanes,
                               int64_t steps, bool by_units) {
    if (whole) lanes = 16, steps = 16 * Of::kSteps;  // known when this is compiled
    if (adjacent_lanes) {
        uint32_t mask = first_bits(lanes, 16);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            const T* row = source + i * Of::kSteps * stride;
            // The next panel's: nothing else sees that they will be wanted, a row being too far from the next.
            for (int step = 0; step < Of::kSteps; ++step) __builtin_prefetch(row + step * stride + 32);
            block[i] = Of::load_unit(row, stride, mask, steps - i * Of::kSteps);
        }
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) block[i] = Of::load_lane(source + i * stride, i < lanes ? steps : 0);
    }
    if (adjacent_lanes != by_units) transpose(reinterpret_cast<Vec(&)[16]>(block));
}

// Calls store_row(i, block[i]) for the 16 rows of a block that starts at (lane, k) and ends before k + steps.
template <class Of, class T, class StoreRow>
LLMCORE_INLINE void pack_block(const PanelSource<T>& source, int64_t lane, int64_t k, int64_t steps, bool by_units,
                               const StoreRow& store_row) {
    Units block[16];
    const T* first = source.at(lane, k);
    int64_t lanes = source.lanes - lane;
    if (lanes >= 16 && steps >= 16 * Of::kSteps)
        load_block<Of, true>(block, first, source.stride, source.adjacent_lanes, lanes, steps, by_units);
    else
        load_block<Of, false>(block, first, source.stride, source.adjacent_lanes, lanes, steps, by_units);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) store_row(i, reinterpret_cast<Vec>(block[i]));
}

// panel[unit * width + lane] for `units` units, of which K steps are there.
template <class Of, int width, class T>
void pack_by_units(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K, int64_t units) {
    // Lanes innermost: 32 of them are one cache line where they are side by side.
    for (int64_t unit = 0; unit < units; unit += 16)
        for (int first = 0; first < width; first += 16) {
            float* out = panel + unit * width + first;
            pack_block<Of>(source, lane + first, k + unit * Of::kSteps, K - unit * Of::kSteps, true,
                           [=](int i, Vec row) {
                               if (unit + i < units) store(out + i * width, row);
                           });
        }
}

// ----------------------------------------------------------------------------------------------------------------
// the kernel

constexpr int kBf16Rows = 14, kBf16Columns = 32;  // 28 sums, 2 vectors of b, 1 of a: 31 of 32 registers

LLMCORE_INLINE Vec multiply_units(Vec sums, Units a, Units b) {
    return reinterpret_cast<Vec>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}

// c[r, j] (+)= sum over units of a[unit, r] . b[unit, j] for r < rows, j < kBf16Columns.
template <int rows>
__attribute__((noinline)) void multiply_unit_rows(float* c, int64_t c_stride, const float* a, const float* b,
                                                  int64_t units, bool add) {
    Vec sums[rows][2] = {};
    for (int64_t k = 0; k < units; ++k, a += 16, b += kBf16Columns) {
        __builtin_prefetch(b + 8 * kBf16Columns);
        __builtin_prefetch(b + 8 * kBf16Columns + 16);
        Units b_low = float_to_bits(load(b)), b_high = float_to_bits(load(b + 16));
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            // In a register: otherwise the compiler reads a[r] twice, as in cpu/matmul_panel.h.
            Units a_r = reinterpret_cast<Units>(_mm512_set1_ps(a[r]));
            asm("" : "+v"(a_r));
            sums[r][0] = multiply_units(sums[r][0], a_r, b_low);
            sums[r][1] = multiply_units(sums[r][1], a_r, b_high);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r, c += c_stride) {
        store(c, add ? load(c) + sums[r][0] : sums[r][0]);
        store(c + 16, add ? load(c + 16) + sums[r][1] : sums[r][1]);
    }
}

template <int compiled_rows = kBf16Rows>
LLMCORE_INLINE void multiply_unit_strip(int64_t rows, float* c, int64_t c_stride, const float* a, const float* b,
                                        int64_t units, bool add) {
    if constexpr (compiled_rows > 1)
        if (rows < compiled_rows) return multiply_unit_strip<compiled_rows - 1>(rows, c, c_stride, a, b, units, add);
    multiply_unit_rows<compiled_rows>(c, c_stride, a, b, units, add);
}

// Pairs of steps as cpu/matmul_few_lanes.h takes them.
struct PairedUnits {
    static constexpr int kSteps = PairedSteps::kSteps;

    static LLMCORE_INLINE float unit(const bf16* p, int64_t stride, int64_t steps) {
        uint32_t bits = p[0].bits | (steps > 1 ? static_cast<uint32_t>(p[stride].bits) << 16 : 0u);
        return std::bit_cast<float>(bits);
    }
    static LLMCORE_INLINE Vec load_lanes(const bf16* p, int64_t stride, int64_t lanes, int64_t steps) {
        return bits_to_float(PairedSteps::load_unit(p, stride, first_bits(lanes, 16), steps));
    }
    static LLMCORE_INLINE Vec multiply_add(Vec sums, float few, Vec many) {
        return multiply_units(sums, reinterpret_cast<Units>(_mm512_set1_ps(few)), float_to_bits(many));
    }
    template <int, class>
    static LLMCORE_INLINE Vec multiply_add_words(Vec sums, const float* few, Vec words) {
        return multiply_add(sums, few[0], words);
    }
};

// The kernel as cpu/matmul.cpp sees it. Blocks as in cpu/matmul_panel.h, in units.
template <class Of>
struct Bf16Kernel {
    static constexpr int kSteps = Of::kSteps, kStrip = kBf16Rows, kStripLanes = 16, kPanel = kBf16Columns;
    static constexpr int64_t kGrain = 16 * kSteps, kBlockK = 384 * kSteps, kPassK = kBlockK;
    static constexpr int64_t kTileRows = 2048, kMinSharedRows = 560;

    static LLMCORE_INLINE int64_t units(int64_t K) { return (K + kSteps - 1) / kSteps; }

    static void begin() {}
    static void end() {}
    template <class T>
    static bool in_place(const PanelSource<T>&, int64_t, int64_t, int64_t) {
        return false;
    }
    template <class T>
    static Strip strip_in_place(const PanelSource<T>&, int64_t, int64_t, int64_t) {
        return {};
    }
    static Strip packed_strip(const float* panel, int64_t K) { return {panel, 16, units(K), 16}; }
    template <class T>
    static Strip pack_a(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K, int64_t first,
                        int64_t) {
        panel += first / kSteps * kStripLanes;
        pack_by_units<Of, 16>(panel, source, lane, k, K, units(K));
        return packed_strip(panel, K);
    }
    template <class T>
    static void pack_b(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
        pack_by_units<Of, kBf16Columns>(panel, source, lane, k, K, units(K));
    }
    static void multiply(int64_t rows, float* c, int64_t c_stride, Strip a, const float* b, int64_t K, bool add) {
        multiply_unit_strip(rows, c, c_stride, a.units, b, units(K), add);
    }
};

}  // namespace
}  // namespace llmcore
