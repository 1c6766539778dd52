// The inner part of cpu/matmul_few_lanes.h for bf16 on processors with AMX. An instruction multiplies 16 x 16 lanes
// whatever there is to multiply, and still faster than memory delivers. Its sums do not know which operand was called
// a: so a matrix whose lanes have their steps side by side takes the place of a, where tiles are loaded from it as it
// is, and one whose lanes are side by side that of b, packed 32 lanes and 32 steps at a time.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/amx_tiles.h"
#include "cpu/matmul_amx.h"
#include "cpu/matmul_blocks.h"

namespace llmcore {
namespace {

struct FewLanesByTiles {
    static constexpr int kMost = kTile;
    static constexpr int64_t kWidth = 2 * kTile, kGrain = kTile * PairedSteps::kSteps;

    static int64_t padded(int64_t count) { return count; }
    static int64_t packed_floats(int64_t, int64_t K) { return round_up(K, kGrain) / PairedSteps::kSteps * kTile; }

    // 16 lanes, those that are missing zero. For b by units: packed[unit * 16 + lane]; for a by lanes, tile by tile.
    static void pack(float* packed, const PanelSource<bf16>& few, int64_t K, bool as_a) {
        for (int64_t k = 0; k < K; k += kGrain, packed += kTile * kTile)
            pack_block<PairedSteps>(few, 0, k, K - k, !as_a, [=](int i, Vec row) { store(packed + i * kTile, row); });
    }

    // Tiles 0 and 1 are sums, 4 and 5 parts of a, 6 and 7 of b.
    static void begin(int64_t rows_of_a) {
        TileConfiguration configuration;
        for (int tile : {0, 1, 4, 5}) configuration.rows[tile] = static_cast<uint8_t>(rows_of_a);
        begin_tiles(configuration);
    }

    static void multiply(float* sums, float*, int64_t stride, const float* packed, int64_t few_lanes,
                         const PanelSource<bf16>& many, int64_t lane, int64_t lanes, int64_t K, int64_t, bool far) {
        begin(many.adjacent_lanes ? few_lanes : kTile);
        if (many.adjacent_lanes)
            multiply_by_adjacent_lanes(sums, stride, packed, many, lane, lanes, K);
        else
            for (int64_t first = 0; first < lanes; first += kWidth)
                multiply_by_adjacent_steps(sums + first, stride, packed, few_lanes, many, lane + first, K, far);
        end_tiles();
    }

    // sums[few lane * stride + i] for 32 lanes i.
    static void multiply_by_adjacent_steps(float* sums, int64_t stride, const float* packed, int64_t few_lanes,
                                           const PanelSource<bf16>& many, int64_t lane, int64_t K, bool far) {
        alignas(64) float block[kWidth * kTile];
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t k = 0; k < K; k += kGrain, packed += kTile * kTile) {
            _tile_loadd(6, packed, 64);
            if (many.lanes - lane >= kWidth && K - k >= kGrain) {
                const bf16* source = many.at(lane, k);
                if (far)
                    for (int i = 0; i < kWidth; ++i) __builtin_prefetch(source + (2 * kWidth + i) * many.stride, 0, 2);
                _tile_loadd(4, source, many.stride * 2);
                _tile_loadd(5, source + kTile * many.stride, many.stride * 2);
            } else {
                for (int half : {0, kTile})
                    pack_block<PairedSteps>(many, lane + half, k, K - k, false,
                                            [&](int i, Vec row) { store(block + (half + i) * kTile, row); });
                _tile_loadd(4, block, 64);
                _tile_loadd(5, block + kTile * kTile, 64);
            }
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 5, 6);
        }
        _tile_stored(0, block, 64);
        _tile_stored(1, block + kTile * kTile, 64);
        for (int half : {0, kTile}) {
            Vec rows[kTile];
            for (int i = 0; i < kTile; ++i) rows[i] = load(block + (half + i) * kTile);
            transpose(rows);
            for (int64_t i = 0; i < few_lanes; ++i) store(sums + i * stride + half, rows[i]);
        }
    }

    // 32 steps at a time, each read on through all lanes of the tile; the sums wait in the first-level cache.
    static void multiply_by_adjacent_lanes(float* sums, int64_t stride, const float* packed,
                                           const PanelSource<bf16>& many, int64_t lane, int64_t lanes, int64_t K) {
        alignas(64) float panel[kTile * kWidth];
        for (int64_t k = 0; k < K; k += kGrain, packed += kTile * kTile) {
            _tile_loadd(4, packed, 64);
            for (int64_t first = 0; first < lanes; first += kWidth) {
                float* c = sums + first;
                pack_by_units<PairedSteps, kWidth>(panel, many, lane + first, k, K - k, kTile);
                if (k == 0) {
                    _tile_zero(0);
                    _tile_zero(1);
                } else {
                    _tile_loadd(0, c, stride * 4);
                    _tile_loadd(1, c + kTile, stride * 4);
                }
                _tile_loadd(6, panel, kWidth * 4);
                _tile_loadd(7, panel + kTile, kWidth * 4);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_stored(0, c, stride * 4);
                _tile_stored(1, c + kTile, stride * 4);
            }
        }
    }
};

}  // namespace
}  // namespace llmcore
