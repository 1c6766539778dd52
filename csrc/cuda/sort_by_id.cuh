// Sorts the numbers 0 to N - 1 by their ids, those of one id in their order: a radix sort, eight bits of the id at a
// time from the lowest on. A block takes a tile of 1024 places. One kernel counts each tile's digits; the next finds
// where each of them goes (first all smaller digits, then the same digit of earlier tiles, of earlier warps and of
// earlier lanes) and moves it there. Counts are whole numbers, so atomics leave nothing to chance.
#pragma once

#include <bit>
#include <cstdint>

#include "core/backend.h"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/warp.cuh"

namespace llmcore {

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
constexpr int kSortThreads = kDigits, kSortWarps = kSortThreads / 32;  // a thread for each digit
constexpr int kSortSteps = 4, kSortTile = kSortThreads * kSortSteps;

struct SortedIds {
    int32_t* ids;  // those outside [0, V) as V, at the end
    int32_t* rows;
};

// One pass. rows_in null: the numbers are in their order.
struct SortPass {
    const int32_t *ids_in, *rows_in;
    int32_t *ids_out, *rows_out, *counts;  // counts (tiles, kDigits)
    int64_t N, tiles;
    int32_t V;
    int shift;
    LLMCORE_DEVICE int32_t id(int64_t place) const {
        const int32_t id = ids_in[place];
        return id >= 0 && id < V ? id : V;
    }
    LLMCORE_DEVICE int digit(int32_t id_at_place) const { return (id_at_place >> shift) & (kDigits - 1); }
};

// Templates of a number that is always the same, so that more than one source may include them.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) count_digits_kernel(SortPass pass) {
    LLMCORE_SHARED(int32_t[kDigits], counts);
    counts[threadIdx.x] = 0;
    __syncthreads();
    const int64_t begin = int64_t(blockIdx.x) * kSortTile;
#pragma unroll
    for (int step = 0; step < kSortSteps; ++step) {
        const int64_t place = begin + step * kThreads + threadIdx.x;
        if (place < pass.N) atomicAdd(&counts[pass.digit(pass.id(place))], 1);
    }
    __syncthreads();
    pass.counts[blockIdx.x * kDigits + threadIdx.x] = counts[threadIdx.x];
}

// The sum of `value` over the threads before this one. `sums` is scratch of the block.
LLMCORE_DEVICE int32_t sum_of_threads_before(int32_t value, int32_t (&sums)[kSortWarps]) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    int32_t sum = value;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int32_t other = __shfl_up_sync(kAllLanes, sum, distance, 32);
        if (lane >= distance) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    for (int i = 0; i < warp; ++i) sum += sums[i];
    return sum - value;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) move_to_place_kernel(SortPass pass) {
    LLMCORE_SHARED(int32_t[kSortWarps][kDigits], next);  // first how many, then where the next one goes
    LLMCORE_SHARED(int32_t[kSortWarps], scratch);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    int32_t all = 0, earlier = 0;  // of the digit that is this thread's number
#pragma unroll 8
    for (int64_t tile = 0; tile < pass.tiles; ++tile) {
        const int32_t count = pass.counts[tile * kDigits + threadIdx.x];
        all += count;
        if (tile < blockIdx.x) earlier += count;
    }
    int32_t place = sum_of_threads_before(all, scratch) + earlier;
    for (int i = 0; i < kSortWarps; ++i) next[i][threadIdx.x] = 0;
    __syncthreads();

    // A warp has 128 adjacent places, 32 in each step.
    const int64_t begin = int64_t(blockIdx.x) * kSortTile + warp * (kSortTile / kSortWarps) + lane;
    int32_t ids[kSortSteps], rank[kSortSteps];
#pragma unroll
    for (int step = 0; step < kSortSteps; ++step) {
        const bool active = begin + step * 32 < pass.N;
        ids[step] = active ? pass.id(begin + step * 32) : 0;
        const int digit = pass.digit(ids[step]);
        uint32_t same = __ballot_sync(kAllLanes, active);  // the lanes with this lane's digit
#pragma unroll
        for (int bit = 0; bit < kDigitBits; ++bit) {
            const bool set = (digit >> bit & 1) != 0;
            const uint32_t lanes = __ballot_sync(kAllLanes, set);
            same &= set ? lanes : ~lanes;
        }
        const int before = __popc(same & ((1u << lane) - 1u));
        rank[step] = next[warp][digit] + before;
        __syncwarp();
        if (active && before == 0) next[warp][digit] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    for (int i = 0; i < kSortWarps; ++i) {
        const int32_t count = next[i][threadIdx.x];
        next[i][threadIdx.x] = place;
        place += count;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kSortSteps; ++step) {
        const int64_t from = begin + step * 32;
        if (from >= pass.N) continue;
        const int32_t to = next[warp][pass.digit(ids[step])] + rank[step];
        pass.ids_out[to] = ids[step];
        pass.rows_out[to] = pass.rows_in != nullptr ? pass.rows_in[from] : int32_t(from);
    }
}

inline int64_t sort_tiles(int64_t N) {
    return (N + kSortTile - 1) / kSortTile;
}

inline size_t sort_by_id_workspace(int64_t N) {
    return static_cast<size_t>(4 * N + sort_tiles(N) * kDigits);
}

// ids (N), N from 1 on; indices: sort_by_id_workspace(N), in which the result lies.
inline SortedIds sort_by_id(const Cuda& cuda, const int32_t* ids, int32_t* indices, int64_t N, int64_t V) {
    SortedIds from{nullptr, nullptr}, to{indices, indices + N}, spare{indices + 2 * N, indices + 3 * N};
    const int bits = std::bit_width(static_cast<uint64_t>(V));  // of V itself: it stands for what is outside
    SortPass pass{ids, nullptr, nullptr, nullptr, indices + 4 * N, N, sort_tiles(N), static_cast<int32_t>(V), 0};
    for (; pass.shift == 0 || pass.shift < bits; pass.shift += kDigitBits) {
        pass.ids_out = to.ids;
        pass.rows_out = to.rows;
        const Launch shape{dim3(static_cast<unsigned>(pass.tiles)), kSortThreads, 0, cuda.stream};
        launch(shape, count_digits_kernel<kSortThreads>, pass);
        launch(shape, move_to_place_kernel<kSortThreads>, pass);
        from = to;
        pass.ids_in = from.ids;
        pass.rows_in = from.rows;
        to = spare;
        spare = from;
    }
    return from;
}

}  // namespace llmcore
