// The inner parts of the CPU matmul in float: packing into panels, and the kernel that multiplies a strip of rows of a
// by a panel of columns of b with all sums in registers. cpu/matmul_bf16.h and cpu/matmul_amx.h are the same for bf16.
//
// A panel holds `width` lanes (rows of a or columns of b) for K steps: panel[k * width + lane], as float, missing lanes
// zero. So the kernel reads both operands as one forward stream, whatever their storage, type or transposition.
#pragma once

#include <cstdint>
#include <utility>

#include "core/inline.h"
#include "cpu/matmul_source.h"
#include "cpu/simd.h"

namespace llmcore {
namespace {

// Sums in registers: kStripRows x 2 vectors, beside 2 vectors of b and 1 broadcast element of a.
#if defined(__AVX512F__)
constexpr int kStripRows = 14;  // 31 of 32 registers
#elif defined(__AVX2__)
constexpr int kStripRows = 6;  // 15 of 16
#elif defined(__aarch64__)
constexpr int kStripRows = 12;  // 27 of 32
#else
constexpr int kStripRows = 4;  // 11 of 16: without FMA every product needs a register of its own
#endif
constexpr int kStripWidth = (kStripRows + kLanes - 1) / kLanes * kLanes;
constexpr int kPanelColumns = 2 * kLanes;

// ----------------------------------------------------------------------------------------------------------------
// packing

// Lanes side by side in memory: lane l of step k is source[k * stride + l].
template <int width, class T>
void pack_adjacent_lanes(float* panel, const T* source, int64_t stride, int64_t lanes, int64_t K) {
    if (lanes >= width) {
        for (int64_t k = 0; k < K; ++k)
            for (int lane = 0; lane < width; lane += kLanes)
                store(panel + k * width + lane, load(source + k * stride + lane));
        return;
    }
    for (int64_t k = 0; k < K; ++k)
        for (int lane = 0; lane < width; ++lane)
            panel[k * width + lane] = lane < lanes ? to_float(source[k * stride + lane]) : 0.0f;
}

// Steps side by side in memory: lane l of step k is source[l * stride + k]. kLanes x kLanes elements at a time.
template <int width, class T>
void pack_adjacent_steps(float* panel, const T* source, int64_t stride, int64_t lanes, int64_t K) {
    for (int first = 0; first < width; first += kLanes)
        for (int64_t k = 0; k < K; k += kLanes) {
            int64_t steps = K - k < kLanes ? K - k : kLanes;
            Vec rows[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) {
                const T* row = source + (first + i) * stride + k;
                rows[i] = first + i >= lanes ? Vec{} : steps == kLanes ? load(row) : load_partial(row, steps);
            }
            transpose(rows);
            for (int64_t i = 0; i < steps; ++i) store(panel + (k + i) * width + first, rows[i]);
        }
}

template <int width, class T>
void pack(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
    int64_t lanes = source.lanes - lane;
    if (source.adjacent_lanes)
        pack_adjacent_lanes<width>(panel, source.at(lane, k), source.stride, lanes, K);
    else
        pack_adjacent_steps<width>(panel, source.at(lane, k), source.stride, lanes, K);
}

// ----------------------------------------------------------------------------------------------------------------
// the kernel

// Without this the compiler reads a[r] from memory again for each of the two products: 30 loads for 28
// multiply-adds instead of 16.
LLMCORE_INLINE void keep_in_register(Vec& v) {
#if defined(__x86_64__)
    asm("" : "+v"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
}

// c[r, j] (+)= sum over k of a[k, r] * b[k, j] for r < rows, j < kPanelColumns. b comes from the second-level cache, in
// order; asking for it ahead of time costs more than it brings (17.4 clocks a step instead of 16.3 with AVX-512).
template <int rows>
__attribute__((noinline)) void multiply_rows(float* c, int64_t c_stride, const float* a, const float* b, int64_t K,
                                             bool add) {
    Vec sums[rows][2] = {};
    for (int64_t k = 0; k < K; ++k, a += kStripWidth, b += kPanelColumns) {
        Vec b_low = load(b), b_high = load(b + kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            Vec a_r = splat(a[r]);
            keep_in_register(a_r);
            sums[r][0] += a_r * b_low;
            sums[r][1] += a_r * b_high;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r, c += c_stride) {
        store(c, add ? load(c) + sums[r][0] : sums[r][0]);
        store(c + kLanes, add ? load(c + kLanes) + sums[r][1] : sums[r][1]);
    }
}

// The same for any number of rows from 1 to kStripRows: one compiled kernel for each, so a short strip costs less.
template <int compiled_rows = kStripRows>
LLMCORE_INLINE void multiply(int64_t rows, float* c, int64_t c_stride, const float* a, const float* b, int64_t K,
                             bool add) {
    if constexpr (compiled_rows > 1)
        if (rows < compiled_rows) return multiply<compiled_rows - 1>(rows, c, c_stride, a, b, K, add);
    multiply_rows<compiled_rows>(c, c_stride, a, b, K, add);
}

// The kernel as cpu/matmul.cpp sees it.
struct FloatKernel {
    static constexpr int kSteps = 1, kStrip = kStripRows, kStripLanes = kStripWidth, kPanel = kPanelColumns;
    // A strip of a takes 24 KiB, half a first-level cache. The order of sums hangs on kBlockK, so it is the same
    // whatever the cache. Blocks are whole cache lines of bf16: cpu/matmul_few_lanes.h reads lines.
    static constexpr int64_t kGrain = 32, kBlockK = 384, kPassK = 384, kTileRows = 2048, kMinSharedRows = 560;

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
    static Strip packed_strip(const float* panel, int64_t K) { return {panel, kStripWidth, K, kStripWidth}; }
    template <class T>
    static Strip pack_a(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K, int64_t first,
                        int64_t) {
        panel += first / kSteps * kStripLanes;
        pack<kStripWidth>(panel, source, lane, k, K);
        return packed_strip(panel, K);
    }
    template <class T>
    static void pack_b(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
        pack<kPanelColumns>(panel, source, lane, k, K);
    }
    static void multiply(int64_t rows, float* c, int64_t c_stride, Strip a, const float* b, int64_t K, bool add) {
        llmcore::multiply(rows, c, c_stride, a.units, b, K, add);
    }
};

}  // namespace
}  // namespace llmcore
