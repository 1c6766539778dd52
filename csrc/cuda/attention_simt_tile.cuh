// Tiles of float rows of one head in shared memory, and their products by multiply-adds of 16 x 16 threads.
//
// Thread (x, y) has rows y, y + 16, ... of every result; of scores columns x, x + 16, ..., of sums over rows of a head
// the fours of columns 4 x, 4 x + 64, .... Rows are four numbers longer than they need to be: threads that read the
// same columns of neighbouring rows, 16 bytes each, then meet no bank conflicts.
#pragma once

#include "cuda/arch/cp_async.cuh"
#include "cuda/fours.cuh"
#include "cuda/shared.cuh"

namespace llmcore {

constexpr int kSimtThreads = 256;

template <int kColumns>
constexpr int kFloatPitch = kColumns + 4;

// Of a tile of scores, which a warp writes two rows of at a time: these are 16 banks apart.
template <int kTile>
constexpr int kScorePitch = kTile % 32 == 16 ? kTile : kTile + 16;

// The rows of one head in memory; only those in [begin, end) may be read, the others count as zeros.
struct FloatRows {
    const float* data;
    int64_t stride;
    int begin, end, HS;
    bool whole_fours;  // every row starts on 16 bytes and ends with a four
};

inline bool whole_fours(const float* data, int64_t stride, int64_t HS) {
    return on_four(data) && stride % 4 == 0 && HS % 4 == 0;
}

// Starts copying rows `first` to first + kRows - 1. Ready after a wait for this thread's copies and a barrier.
template <int kRows, int kWidth>
LLMCORE_DEVICE void copy_rows(float* tile, const FloatRows& rows, int first) {
    constexpr int kFours = kWidth / 4, kTurn = kSimtThreads / kFours;
    static_assert(kRows % kTurn == 0, "all fours of all rows have their thread");
    const int column = int(threadIdx.x) % kFours * 4;
#pragma unroll 1
    for (int line = int(threadIdx.x) / kFours; line < kRows; line += kTurn) {
        const int row = first + line;
        const bool inside = row >= rows.begin && row < rows.end;
        const float* from = rows.data + (inside ? row * rows.stride : 0);
        const uint32_t to = shared_address(tile + line * kFloatPitch<kWidth> + column);
        if (rows.whole_fours) {
            const bool here = inside && column < rows.HS;
            ptx::cp_async<16>(to, here ? from + column : rows.data, here ? 16 : 0);
        } else {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const bool here = inside && column + e < rows.HS;
                ptx::cp_async<4>(to + uint32_t(e * 4), here ? from + column + e : rows.data, here ? 4 : 0);
            }
        }
    }
}

LLMCORE_DEVICE Four<float> four_at(const float* tile, int at) {
    Four<float> four;
    load_at_once(four.value, tile + at);
    return four;
}

// A thread's scores of a tile of kTile x kTile.
template <int kTile>
using ThreadScores = float[kTile / 16][kTile / 16];

// scores = a b^T over kWidth columns.
template <int kTile, int kWidth>
LLMCORE_DEVICE void multiply_rows(ThreadScores<kTile>& scores, const float* a, const float* b) {
    constexpr int kEach = kTile / 16, kPitch = kFloatPitch<kWidth>;
    const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
#pragma unroll
    for (int r = 0; r < kEach; ++r)
#pragma unroll
        for (int c = 0; c < kEach; ++c) scores[r][c] = 0.0f;
#pragma unroll 1
    for (int s = 0; s < kWidth; s += 4) {
        Four<float> left[kEach], right[kEach];
#pragma unroll
        for (int r = 0; r < kEach; ++r) left[r] = four_at(a, (y + 16 * r) * kPitch + s);
#pragma unroll
        for (int c = 0; c < kEach; ++c) right[c] = four_at(b, (x + 16 * c) * kPitch + s);
#pragma unroll
        for (int r = 0; r < kEach; ++r)
#pragma unroll
            for (int c = 0; c < kEach; ++c)
#pragma unroll
                for (int e = 0; e < 4; ++e) scores[r][c] += left[r].value[e] * right[c].value[e];
    }
}

// A thread's sums over rows of a head.
template <int kTile, int kWidth>
using ThreadSums = float[kTile / 16][kWidth / 64][4];

// sums += weights b, with weights of kTile x kTile in shared memory.
template <int kTile, int kWidth>
LLMCORE_DEVICE void add_weighted_rows(ThreadSums<kTile, kWidth>& sums, const float* weights, const float* b) {
    constexpr int kEach = kTile / 16, kPitch = kFloatPitch<kWidth>;
    const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
#pragma unroll 1
    for (int j = 0; j < kTile; j += 4) {
        Four<float> left[kEach];
#pragma unroll
        for (int r = 0; r < kEach; ++r) left[r] = four_at(weights, (y + 16 * r) * kScorePitch<kTile> + j);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
            for (int g = 0; g < kWidth / 64; ++g) {
                const Four<float> right = four_at(b, (j + e) * kPitch + 4 * x + 64 * g);
#pragma unroll
                for (int r = 0; r < kEach; ++r)
#pragma unroll
                    for (int n = 0; n < 4; ++n) sums[r][g][n] += left[r].value[e] * right.value[n];
            }
    }
}

// Stores a thread's sums times factor(r) as rows `first` on of a head of which `end` rows are there.
template <int kTile, int kWidth, class Factor>
LLMCORE_DEVICE void store_rows(float* data, int64_t stride, int end, int HS, bool whole, int first,
                               ThreadSums<kTile, kWidth>& sums, Factor&& factor) {
    const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
#pragma unroll
    for (int r = 0; r < kTile / 16; ++r)
#pragma unroll
        for (int g = 0; g < kWidth / 64; ++g) {
            const int row = first + y + 16 * r, column = 4 * x + 64 * g;
#pragma unroll
            for (int n = 0; n < 4; ++n) sums[r][g][n] *= factor(r);
            if (row < end && column < HS) store_four(data + row * stride + column, sums[r][g], HS - column, whole);
        }
}

}  // namespace llmcore
