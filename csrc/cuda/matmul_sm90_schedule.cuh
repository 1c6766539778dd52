// Which tile when, for the persistent blocks of csrc/cuda/matmul_sm90.cu. The work is a list of units: one tile for
// each block of a cluster, over one part of K. Cluster c computes units c, c + clusters, and so on.
#pragma once

#include "cuda/arch/cluster.cuh"
#include "cuda/matmul_tile.cuh"

namespace llmcore {

struct TileWork {
    int matrix, m, n;    // which tile
    int split;           // which part of K
    unsigned turnstile;  // the tile's number, alike for all parts of K
};

struct Schedule {
    int units_m, units_n, units;  // of one split: down, across, in all matrices
    int count;                    // units of all splits
    int cluster, clusters;        // blocks in one, and how many of them run
    int steps;  // of one split, alike for all: the last may reach past K, where operands load as zeros

    LLMCORE_DEVICE int first() const { return int(blockIdx.x) / cluster; }

    // All tiles' first parts come before all second parts: a part waits only for units that are ahead of its own, so
    // that somebody can always go on.
    LLMCORE_DEVICE TileWork at(int unit) const {
        const int within = unit % units, rank = int(ptx::cluster_rank());
        const TileIndex tile = tile_of_block(unsigned(within), units_m, units_n);
        return {tile.matrix, tile.m * cluster + rank, tile.n, unit / units, unsigned(within * cluster + rank)};
    }
};

}  // namespace llmcore
