// How the work of a matrix product is cut on the CPU: for the caches and for the threads. Nothing here changes a bit of
// the result: the sums of cpu/matmul_panel.h and cpu/matmul_bf16.h start anew at every block of K, whose size follows
// from K and a constant; those of cpu/matmul_amx.h never do.
#pragma once

#include <cstdint>

#include "core/cache_sizes.h"
#include "core/inline.h"
#include "core/thread_pool.h"
#include "kernels/matmul.h"

namespace llmcore {
namespace {

// Below this many multiply-adds waking a second thread costs more than it brings.
constexpr int64_t kMinParallelWork = 1 << 18;

// Packed rows of a that all tasks share take 16 MiB at most: beyond the second-level cache, which they leave to b, but
// read in order once for each tile of columns.
constexpr int64_t kMaxSharedUnits = 4 << 20;

LLMCORE_INLINE int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
LLMCORE_INLINE int64_t round_up(int64_t a, int64_t b) {
    return divide_up(a, b) * b;
}
LLMCORE_INLINE int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
LLMCORE_INLINE int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// How a strip of a becomes what a kernel reads.
enum class Packing {
    kShared,  // all strips are packed before the tiles begin: each once, by all threads
    kByTile,  // each tile packs each of its strips when it comes to it, into the first-level cache
};

struct Blocks {
    int64_t pass, block;  // steps of K for which b and a strip of a are packed at once
    int64_t rows;         // of y between two shared packings: a multiple of the strip, or all of M
    int64_t tile_rows, tile_columns;
    Packing packing;
};

LLMCORE_INLINE int64_t cut_evenly(int64_t size, int64_t largest, int64_t grain) {
    return round_up(divide_up(size, divide_up(size, largest)), grain);
}

// Units of one strip, packed for the whole of K.
template <class Kernel>
int64_t strip_units(int64_t K) {
    return Kernel::kStripLanes * (round_up(K, Kernel::kGrain) / Kernel::kSteps);
}

// The next tile of b is prefetched while this many strips or more are multiplied: fewer leave no time for it.
constexpr int64_t kMinStripsToPrefetch = 8;

// Steps of K after which sums start anew (cpu/matmul_panel.h, cpu/matmul_bf16.h), and after which packing pauses.
template <class Kernel>
Blocks cut_steps(int64_t K) {
    Blocks blocks{};
    blocks.pass = K == 0 ? Kernel::kGrain : cut_evenly(K, Kernel::kPassK, Kernel::kGrain);
    blocks.block = cut_evenly(blocks.pass, Kernel::kBlockK, Kernel::kGrain);
    return blocks;
}

// b's tile takes half of the second-level cache; a tile has as many columns as that allows and as few rows as the
// threads need.
template <class Kernel>
Blocks cut_into_blocks(const MatmulProblem& p) {
    constexpr int64_t kPanel = Kernel::kPanel, kStrip = Kernel::kStrip;
    Blocks blocks = cut_steps<Kernel>(p.K);

    // A strip alone uses a panel of b once, so a tile then is what the first-level cache holds; but rows of b, read a
    // panel's width at a time, would lie pages apart.
    bool one_use = p.M <= kStrip && p.transpose_b;
    int64_t tile_floats =
        (one_use ? cache_sizes().first : cache_sizes().second / 2) / static_cast<int64_t>(sizeof(float));
    int64_t widest = larger(tile_floats / (blocks.pass / Kernel::kSteps) / kPanel, 1) * kPanel;
    int64_t column_tiles = divide_up(p.N, widest);
    int64_t rows = kMaxSharedUnits / larger(strip_units<Kernel>(p.K), 1) * kStrip;
    // With one tile of columns every strip is packed once anyway; so few rows at a time would pack b too often.
    bool shared = p.batch == 1 && column_tiles > 1 && (rows >= p.M || rows >= Kernel::kMinSharedRows);
    blocks.packing = shared ? Packing::kShared : Packing::kByTile;
    blocks.rows = shared && rows < p.M ? cut_evenly(p.M, rows, kStrip) : p.M;

    // Tiles for every thread. A cut between rows packs b twice, and a cut between columns packs a twice unless that is
    // shared.
    int64_t row_tiles = divide_up(blocks.rows, Kernel::kTileRows);
    int64_t threads = p.batch * p.M * p.N * p.K < kMinParallelWork ? 1 : num_threads();
    if (p.batch * column_tiles * row_tiles % threads != 0 && p.batch < 4 * threads) {
        bool enough_columns = p.N >= threads * 2 * kPanel, enough_rows = blocks.rows >= threads * 2 * kStrip;
        if (enough_columns && (shared || p.M <= p.N || !enough_rows))
            column_tiles = round_up(column_tiles, threads);
        else if (enough_rows || blocks.rows >= threads * kStrip)
            row_tiles = round_up(row_tiles, threads);
        else
            column_tiles = smaller(threads, divide_up(p.N, kPanel));
    }
    blocks.tile_columns = round_up(divide_up(p.N, column_tiles), kPanel);
    blocks.tile_rows = round_up(divide_up(blocks.rows, row_tiles), kStrip);
    return blocks;
}

// ----------------------------------------------------------------------------------------------------------------
// the workspace: the shared strips of a, then every worker's own memory, then what dbias needs: for every strip the
// sums over its rows

struct Scratch {
    float *a, *b, *sums;  // one strip of a, a pass of b's tile, and the sums: panels of a strip side by side
};

template <class Kernel>
int64_t shared_floats(const Blocks& blocks, int64_t K) {
    if (blocks.packing != Packing::kShared) return 0;
    return divide_up(blocks.rows, Kernel::kStrip) * strip_units<Kernel>(K);
}

// A tile that is done in one pass needs the sums of one strip only.
template <class Kernel>
int64_t scratch_floats(const Blocks& blocks, int64_t K) {
    int64_t rows = K <= blocks.pass ? Kernel::kStrip : blocks.tile_rows;
    int64_t units = Kernel::kStripLanes * blocks.block + blocks.tile_columns * blocks.pass;
    return round_up(units / Kernel::kSteps + blocks.tile_columns * rows, 16);  // whole cache lines
}

template <class Kernel>
Scratch scratch_of(float* workspace, int worker, const Blocks& blocks, int64_t K) {
    float* a = workspace + round_up(shared_floats<Kernel>(blocks, K), 16) + worker * scratch_floats<Kernel>(blocks, K);
    float* b = a + Kernel::kStripLanes * blocks.block / Kernel::kSteps;
    return {a, b, b + blocks.tile_columns * blocks.pass / Kernel::kSteps};
}

template <class Kernel>
float* partial_sums_of(float* workspace, const Blocks& blocks, int64_t K) {
    return scratch_of<Kernel>(workspace, num_threads(), blocks, K).a;  // behind the last worker's
}

template <class Kernel>
int64_t workspace_floats(const MatmulProblem& p, bool with_dbias) {
    Blocks blocks = cut_into_blocks<Kernel>(p);
    return round_up(shared_floats<Kernel>(blocks, p.K), 16) + num_threads() * scratch_floats<Kernel>(blocks, p.K) +
           (with_dbias ? divide_up(p.M, Kernel::kStrip) * p.N : 0);
}

}  // namespace
}  // namespace llmcore
