// A warpgroup's sums, sixteen columns at a time: the epilogues of csrc/cuda/matmul_sm90.cu are written once for those,
// not once for every register.
#pragma once

#include "cuda/matmul_sm90_design.cuh"

namespace llmcore {

// A thread's part of 64 rows by 16 columns. With r = sums_row() and c = sums_column():
//   value[2i], value[2i + 1] = (r + 8 (i % 2), c + 8 (i / 2)) and the next column.
struct SixteenColumns {
    float value[8];
};

LLMCORE_DEVICE int sums_row() {
    const int thread = int(threadIdx.x) % kWarpgroup;
    return thread / 32 * 16 + thread % 32 / 4;
}
LLMCORE_DEVICE int sums_column() {
    return int(threadIdx.x) % 4 * 2;
}

// Group `group` of the sixteens, counted through all parts. Registers have no index, so that this is a search through
// branches, which all threads take alike.
template <class Tile, int kFirst = 0, int kCount = Tile::kParts * Tile::kBlockN / 16>
LLMCORE_DEVICE void take_sixteen(SixteenColumns& columns, const HopperSums<Tile>& sums, int group) {
    if constexpr (kCount == 1) {
        constexpr int kPart = kFirst / (Tile::kBlockN / 16), kColumn = kFirst % (Tile::kBlockN / 16);
#pragma unroll
        for (int i = 0; i < 8; ++i) columns.value[i] = sums[kPart][kColumn * 8 + i];
    } else if (group < kFirst + kCount / 2) {
        take_sixteen<Tile, kFirst, kCount / 2>(columns, sums, group);
    } else {
        take_sixteen<Tile, kFirst + kCount / 2, kCount - kCount / 2>(columns, sums, group);
    }
}

}  // namespace llmcore
