// Kernels that must be refused, each with a sentence that names what is wrong.
#include "check.h"
#include "cuda/arch/barrier.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/warp.cuh"
#include "emu/barrier.h"

using namespace llmcore;

namespace {

std::string at_line(int line) {
    return "test_misuse.cpp:" + std::to_string(line);
}

constexpr int kHalfWarpLine = __LINE__ + 2;
void half_a_warp() {
    if (threadIdx.x < 16) __shfl_xor_sync(kAllLanes, 1, 1);
}

TEST(half_a_warp_in_a_shuffle_is_a_deadlock) {
    for_every_policy([] {
        expect_error("deadlock", "16 thread(s) [0..15]: shfl at " + at_line(kHalfWarpLine) + " {without lanes 16 17 ",
                     [] { launch({1, 32}, half_a_warp); });
    });
}

void divergent_barrier() {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncthreads();
}

TEST(a_divergent_barrier_is_refused) {
    expect_error("divergence", "meet barrier 0 at lines", [] { launch({1, 64}, divergent_barrier); });
}

constexpr int kEarlyExitLine = __LINE__ + 3;
void early_exit() {
    if (threadIdx.x == 5) return;
    __syncthreads();
}

TEST(a_barrier_after_an_early_exit_is_a_deadlock) {
    expect_error("deadlock",
                 "(1 have exited):\n    63 thread(s) [0..63]: __syncthreads at " + at_line(kEarlyExitLine) +
                     " {barrier 0: 63 of 64 have arrived} block (0, 0, 0)",
                 [] { launch({1, 64}, early_exit); });
}

void mixed_collectives() {
    if (threadIdx.x == 3) __syncwarp();
    __ballot_sync(kAllLanes, 1);
}

TEST(lanes_in_two_collectives_are_refused) {
    expect_error("divergence", "lanes of one warp meet in", [] { launch({1, 32}, mixed_collectives); });
}

void foreign_lane() {
    __syncwarp(0xfffffffe);
}

TEST(a_lane_outside_its_own_mask_is_refused) {
    expect_error("warp", "__syncwarp: the lane is not in its own mask", [] { launch({1, 32}, foreign_lane); });
}

constexpr int kLocalLine = __LINE__ + 3;
void local_as_shared() {
    int local = 0;
    shared_address(&local);
}

TEST(a_local_variable_is_no_shared_memory) {
    expect_error("shared-bounds",
                 "not into this block's shared memory [" + at_line(kLocalLine) + "] block (0, 0, 0) thread 0",
                 [] { launch({1, 1}, local_as_shared); });
}

constexpr int kShortLine = __LINE__ + 2;
void short_barrier() {
    if (threadIdx.x < 32) ptx::bar_sync(1, 128);
}

TEST(a_named_barrier_that_nobody_completes_is_a_deadlock) {
    expect_error("deadlock", "bar.sync at " + at_line(kShortLine) + " {barrier 1: 32 of 128 have arrived}",
                 [] { launch({1, 128}, short_barrier); });
}

void disagreeing_barrier() {
    ptx::bar_sync(1, threadIdx.x < 32 ? 64 : 96);
}

void odd_barrier() {
    ptx::bar_sync(1, 40);
}

void seventeenth_barrier() {
    ptx::bar_sync(16, 64);
}

TEST(barriers_with_impossible_numbers_are_refused) {
    expect_error("barrier", "threads disagree on the count", [] { launch({1, 96}, disagreeing_barrier); });
    expect_error("barrier", "40 is not a multiple of 32", [] { launch({1, 96}, odd_barrier); });
    expect_error("barrier", "barriers 0 to 15, got 16", [] { launch({1, 64}, seventeenth_barrier); });
}

void wrong_rank() {
    emu::map_to_rank(1024, 2, emu::Location::here());
}

TEST(a_rank_outside_the_cluster_is_refused) {
    expect_error("cluster", "rank 2 in a cluster of 2", [] { launch({2, 1, 0, nullptr, 2}, wrong_rank); });
}

void too_much_shared() {
    LLMCORE_SHARED(char[200 * 1024], first);
    LLMCORE_SHARED(char[28 * 1024], second);
    first[0] = second[0] = 0;
}

TEST(static_arrays_cannot_exceed_what_a_block_has) {
    expect_error("shared-bounds", "exceed 227 KiB", [] { launch({1, 1}, too_much_shared); });
}

}  // namespace
