// Column sums over many rows (gradients of weights and biases of a norm) without depending on the number of threads:
// the rows are cut into a fixed number of blocks, each block has its own partial sums, and these are added in block
// order.
#pragma once

#include <cstdint>

#include "core/inline.h"
#include "core/thread_pool.h"
#include "cpu/simd.h"

namespace llmcore {

// At most 16 blocks: enough for the threads of a desktop, few enough that the partial sums stay small beside the rows.
inline constexpr int64_t kMaxRowBlocks = 16;
inline constexpr int64_t kMinBlockRows = 16;

LLMCORE_INLINE int64_t row_blocks(int64_t N) {
    int64_t blocks = (N + kMinBlockRows - 1) / kMinBlockRows;
    return blocks < 1 ? 1 : blocks > kMaxRowBlocks ? kMaxRowBlocks : blocks;
}

namespace {

// total[c] += partial[0][c] + partial[1][c] + ...; the partial sums of one block are `stride` floats apart.
inline void add_row_blocks(float* total, const float* partial, int64_t blocks, int64_t stride, int64_t C) {
    parallel_for(C, 1024, [=](int64_t begin, int64_t end) {
        for (int64_t block = 0; block < blocks; ++block)
            for (int64_t c = begin; c < end; ++c) total[c] += partial[block * stride + c];
    });
}

}  // namespace
}  // namespace llmcore
