// The inner parts of the CPU matmul for bf16 operands on processors with AMX: tile registers of 16 rows x 64 bytes, and
// tdpbf16ps, which multiplies 16 rows of 32 steps of a by 16 columns of b and adds to 16 x 16 floats, in 16 cycles.
// Panels hold pairs of steps (cpu/matmul_bf16.h). Those of b are by pairs, as the instruction wants them; a strip of a
// is by lanes: strip[lane * pairs + pair]. Both are padded with zeros to whole tiles.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/inline.h"
#include "cpu/amx_tiles.h"
#include "cpu/matmul_bf16.h"
#include "cpu/matmul_source.h"

namespace llmcore {
namespace {

constexpr int kTile = 16;  // rows of a tile, and its 32-bit units in a row
constexpr int kAmxRows = 2 * kTile, kAmxColumns = 2 * kTile;

template <class Of, class T>
void pack_by_lanes(float* strip, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K, int64_t units,
                   int64_t stride) {
    for (int64_t unit = 0; unit < units; unit += kTile)
        for (int first = 0; first < kAmxRows; first += kTile) {
            float* out = strip + first * stride + unit;
            pack_block<Of>(source, lane + first, k + unit * Of::kSteps, K - unit * Of::kSteps, false,
                           [=](int i, Vec row) { store(out + i * stride, row); });
        }
}

// Whether tiles may be loaded from where the rows of a lie, and as fast as from a packed strip: whole tiles, no row
// across two cache lines, and not every other row in the same set of the first-level cache.
inline bool is_strip(const PanelSource<bf16>& source, int64_t lane, int64_t k, int64_t K) {
    constexpr int64_t kLine = 32, kHalfOfSets = 32 * kLine;  // bf16
    return !source.adjacent_lanes && K % kLine == 0 && source.lanes - lane >= kAmxRows && source.stride % kLine == 0 &&
           source.stride % kHalfOfSets != 0 && reinterpret_cast<uintptr_t>(source.at(lane, k)) % 64 == 0;
}

// c (32 x 32, or 16 x 32 with one row of tiles) (+)= a b; the rows of a are a_stride apart. Four tiles of sums, two of
// a and two of b: four products for four loads.
//
// b is loaded as what is not used again soon: it would push a, which every panel of b meets, out of the first-level
// cache (24 clocks a product instead of 40 for 24 steps in a row; benchmarks/results/intel-xeon-amx/inner_loops.md).
template <int row_tiles>
void multiply_tiles(float* c, int64_t c_stride, const float* a, int64_t a_stride, const float* b, int64_t units,
                    bool add) {
    int64_t c_bytes = c_stride * 4, a_bytes = a_stride * 4;
    constexpr int64_t b_bytes = kAmxColumns * 4;
    if (add) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + kTile, c_bytes);
        if constexpr (row_tiles == 2) {
            _tile_loadd(2, c + kTile * c_stride, c_bytes);
            _tile_loadd(3, c + kTile * c_stride + kTile, c_bytes);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (row_tiles == 2) {
            _tile_zero(2);
            _tile_zero(3);
        }
    }
    for (int64_t k = 0; k < units; k += kTile, b += kTile * kAmxColumns) {
        _tile_stream_loadd(6, b, b_bytes);
        _tile_loadd(4, a + k, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, b + kTile, b_bytes);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (row_tiles == 2) {
            _tile_loadd(5, a + kTile * a_stride + k, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + kTile, c_bytes);
    if constexpr (row_tiles == 2) {
        _tile_stored(2, c + kTile * c_stride, c_bytes);
        _tile_stored(3, c + kTile * c_stride + kTile, c_bytes);
    }
}

// The kernel as cpu/matmul.cpp sees it.
//
// Blocks, in units: of 2 MiB of second-level cache b takes 1 MiB; a's strip is up to 48 KiB, all of a first-level cache
// of today. Sums that go through memory after fewer steps cost more than lines of a that come from further away.
template <class Of>
struct AmxKernel {
    static constexpr int kSteps = Of::kSteps, kStrip = kAmxRows, kStripLanes = kAmxRows, kPanel = kAmxColumns;
    static constexpr int64_t kGrain = 16 * kSteps, kBlockK = 384 * kSteps, kPassK = 512 * kSteps;
    static constexpr int64_t kTileRows = 2048, kMinSharedRows = 512;

    static LLMCORE_INLINE int64_t units(int64_t K) { return (K + kGrain - 1) / kGrain * kTile; }

    static void begin() { begin_tiles(); }
    static void end() { end_tiles(); }

    template <class T>
    static bool in_place(const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
        if constexpr (kSteps == 2)
            return is_strip(source, lane, k, K);
        else
            return false;
    }
    template <class T>
    static Strip strip_in_place(const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
        return {reinterpret_cast<const float*>(source.at(lane, k)), source.stride / 2, kAmxRows, units(K)};
    }
    static Strip packed_strip(const float* panel, int64_t K) { return {panel, units(K), kAmxRows, units(K)}; }
    template <class T>
    static Strip pack_a(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K, int64_t first,
                        int64_t block) {
        pack_by_lanes<Of>(panel + first / kSteps, source, lane, k, K, units(K), units(block));
        return packed_strip(panel, K);
    }
    template <class T>
    static void pack_b(float* panel, const PanelSource<T>& source, int64_t lane, int64_t k, int64_t K) {
        pack_by_units<Of, kAmxColumns>(panel, source, lane, k, K, units(K));
    }
    static void multiply(int64_t rows, float* c, int64_t c_stride, Strip a, const float* b, int64_t K, bool add) {
        if (rows > kTile)
            multiply_tiles<2>(c, c_stride, a.units, a.stride, b, units(K), add);
        else
            multiply_tiles<1>(c, c_stride, a.units, a.stride, b, units(K), add);
    }
};

}  // namespace
}  // namespace llmcore
