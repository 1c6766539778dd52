// Warp operations against brute-force definitions: PTX ISA 9.7.9.6 (shfl.sync), 9.7.13.7 (vote.sync), 9.7.13.10
// (redux.sync), 9.7.13.16 (elect.sync).
#include <climits>
#include <cstring>

#include "check.h"
#include "cuda/arch/collective.cuh"
#include "cuda/arch/float.cuh"
#include "cuda/launch.cuh"
#include "cuda/warp.cuh"

using namespace llmcore;

namespace {

// The source lane of shfl.sync as the PTX manual computes it: c holds the clamp and the segment mask.
int shfl_source(const char* mode, int lane, int b, int width) {
    int clamp = std::string(mode) == "up" ? 0 : 31, segment = (32 - width) & 31;
    int max_lane = (lane & segment) | (clamp & ~segment), min_lane = lane & segment, source = 0;
    bool inside = false;
    if (mode[0] == 'u') source = lane - b, inside = source >= max_lane;
    if (mode[0] == 'd') source = lane + b, inside = source <= max_lane;
    if (mode[0] == 'b') source = lane ^ b, inside = source <= max_lane;
    if (mode[0] == 'i') source = min_lane | (b & ~segment), inside = source <= max_lane;
    return inside ? source : lane;
}

void shuffle_kernel(int (*result)[32], int b, int width) {
    int lane = int(threadIdx.x), value = 100 + lane;
    result[0][lane] = __shfl_up_sync(kAllLanes, value, b, width);
    result[1][lane] = __shfl_down_sync(kAllLanes, value, b, width);
    result[2][lane] = __shfl_xor_sync(kAllLanes, value, b, width);
    result[3][lane] = __shfl_sync(kAllLanes, value, b, width);
}

TEST(shuffles_read_the_lanes_that_ptx_names) {
    const char* modes[] = {"up", "down", "bfly", "idx"};
    for (int width : {32, 16, 8, 2})
        for (int b = 0; b < width; ++b) {
            int result[4][32];
            launch({1, 32}, shuffle_kernel, result, b, width);
            for (int mode = 0; mode < 4; ++mode)
                for (int lane = 0; lane < 32; ++lane)
                    EXPECT(result[mode][lane] == 100 + shfl_source(modes[mode], lane, b, width));
        }
}

void vote_kernel(uint32_t* ballots, int* any, int* all) {
    uint32_t mask = threadIdx.x < 20 ? 0x000fffffu : 0xfff00000u;
    ballots[threadIdx.x] = __ballot_sync(mask, threadIdx.x % 3 == 0);
    any[threadIdx.x] = __any_sync(mask, threadIdx.x == 4);
    all[threadIdx.x] = __all_sync(mask, threadIdx.x >= 20);
}

TEST(votes_count_only_their_mask) {
    uint32_t ballots[32];
    int any[32], all[32];
    for_every_policy([&] {
        launch({1, 32}, vote_kernel, ballots, any, all);
        for (unsigned lane = 0; lane < 32; ++lane) {
            uint32_t expected = 0;
            for (unsigned other = 0; other < 32; ++other)
                if ((other < 20) == (lane < 20) && other % 3 == 0) expected |= 1u << other;
            EXPECT(ballots[lane] == expected);
            EXPECT((any[lane] != 0) == (lane < 20));
            EXPECT((all[lane] != 0) == (lane >= 20));
        }
    });
}

void reduce_kernel(uint32_t* results, const uint32_t* values) {
    uint32_t mask = threadIdx.x % 2 ? 0xaaaaaaaau : 0x55555555u, value = values[threadIdx.x];
    uint32_t* mine = results + threadIdx.x * 9;
    mine[0] = ptx::reduce_lanes<ptx::Reduce::kAdd>(mask, value);
    mine[1] = ptx::reduce_lanes<ptx::Reduce::kMin>(mask, value);
    mine[2] = ptx::reduce_lanes<ptx::Reduce::kMax>(mask, value);
    mine[3] = ptx::reduce_lanes<ptx::Reduce::kAnd>(mask, value);
    mine[4] = ptx::reduce_lanes<ptx::Reduce::kOr>(mask, value);
    mine[5] = ptx::reduce_lanes<ptx::Reduce::kXor>(mask, value);
    mine[6] = ptx::elect_one(mask);
    mine[7] = uint32_t(ptx::reduce_lanes<ptx::Reduce::kMin>(mask, int32_t(value)));
    mine[8] = uint32_t(ptx::reduce_lanes<ptx::Reduce::kMax>(mask, int32_t(value)));
}

TEST(redux_and_elect_see_their_mask) {
    for_every_policy([] {
        uint32_t values[32], results[32 * 9], elected[2] = {};
        for (uint32_t& value : values) value = static_cast<uint32_t>(int32_t(random_number() * 2e9f));
        launch({1, 32}, reduce_kernel, results, values);
        for (unsigned lane = 0; lane < 32; ++lane) {
            uint32_t expected[6] = {0, ~0u, 0, ~0u, 0, 0};
            int32_t smallest = INT32_MAX, largest = INT32_MIN;
            for (unsigned other = lane % 2; other < 32; other += 2) {
                uint32_t v = values[other];
                expected[0] += v, expected[3] &= v, expected[4] |= v, expected[5] ^= v;
                expected[1] = v < expected[1] ? v : expected[1], expected[2] = v > expected[2] ? v : expected[2];
                smallest = int32_t(v) < smallest ? int32_t(v) : smallest;
                largest = int32_t(v) > largest ? int32_t(v) : largest;
            }
            for (int i = 0; i < 6; ++i) EXPECT(results[lane * 9 + i] == expected[i]);
            elected[lane % 2] += results[lane * 9 + 6];
            EXPECT(int32_t(results[lane * 9 + 7]) == smallest && int32_t(results[lane * 9 + 8]) == largest);
        }
        EXPECT(elected[0] == 1 && elected[1] == 1);  // one of each mask
    });
}

void elect_kernel(int* elected, int times) {
    for (int i = 0; i < times; ++i)
        if (ptx::elect_one()) elected[i] = int(threadIdx.x);
}

TEST(the_same_lane_is_elected_every_time_but_not_always_lane_0) {
    int lanes_elected = 0, last = -1;
    for_every_policy([&] {
        int elected[3];
        launch({1, 32}, elect_kernel, elected, 3);
        EXPECT(elected[0] == elected[1] && elected[1] == elected[2]);
        lanes_elected += elected[0] != last;
        last = elected[0];
    });
    EXPECT(lanes_elected >= 3);
}

void sum_kernel(float* sums, float* maxima, const float* values) {
    sums[threadIdx.x] = warp_sum(values[threadIdx.x]);
    maxima[threadIdx.x] = warp_max(values[threadIdx.x]);
}

TEST(warp_sum_and_max_give_all_lanes_the_same_bits) {
    float values[64], sums[64], maxima[64];
    for (float& value : values) value = random_number();
    launch({1, 64}, sum_kernel, sums, maxima, values);
    for (int warp = 0; warp < 2; ++warp) {
        double sum = 0, maximum = -2;
        for (int i = 0; i < 32; ++i) {
            sum += values[warp * 32 + i];
            maximum = std::fmax(maximum, values[warp * 32 + i]);
        }
        for (int i = 0; i < 32; ++i) {
            EXPECT(sums[warp * 32 + i] == sums[warp * 32] && std::fabs(sums[warp * 32] - sum) < 1e-5);
            EXPECT(maxima[warp * 32 + i] == static_cast<float>(maximum));
        }
    }
}

void outside_kernel(uint32_t* result) {
    if (threadIdx.x < 16) result[threadIdx.x] = __shfl_sync(0xffffu, threadIdx.x, 20);
}

TEST(a_lane_outside_the_mask_gives_poison) {
    uint32_t result[16];
    launch({1, 32}, outside_kernel, result);
    for (uint32_t value : result) EXPECT(value == ~0u);
}

// PTX ISA 9.7.3.21: subnormal results are flushed to zero of their sign; the error is below 2^-22.
TEST(powers_of_two_are_flushed_at_the_smallest_normal_number) {
    for (float x : {-3.5f, -1.0f, 0.0f, 0.75f, 10.0f}) {
        const double expected = std::exp2(double(x));
        EXPECT(std::abs(double(ptx::exp2_approximate(x)) - expected) <= expected * 0x1p-22);
    }
    EXPECT(ptx::exp2_approximate(-126.0f) == 0x1p-126f);
    EXPECT(ptx::exp2_approximate(-126.5f) == 0.0f && ptx::exp2_approximate(-INFINITY) == 0.0f);
    EXPECT(ptx::exp2_approximate(128.0f) == INFINITY && std::isnan(ptx::exp2_approximate(NAN)));
}

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// PTX ISA 9.7.9.21: .rn rounds to the nearest, of two to the even one; what is no number becomes 0x7fff; the first
// source is the upper half.
TEST(pairs_of_bf16_are_rounded_to_nearest_even) {
    for (int n = 0; n < 10000; ++n) {
        const float value = random_number() * float(1 << (n % 20));
        const uint32_t half = ptx::pack_bf16(value, 0.0f) & 0xffffu, below = bits_of(value) >> 16;
        const auto distance = [&](uint32_t candidate) {
            const uint32_t bits = candidate << 16;
            float number;
            std::memcpy(&number, &bits, 4);
            return std::abs(double(number) - double(value));
        };
        const bool tie = distance(below) == distance(below + 1);
        EXPECT(half == (tie ? below + (below & 1) : distance(below) < distance(below + 1) ? below : below + 1));
    }
    EXPECT(ptx::pack_bf16(1.0f + 0x1p-8f, 1.0f + 0x3p-8f) == 0x3f823f80u);  // ties, down and up to the even one
    EXPECT(ptx::pack_bf16(3.4e38f, -INFINITY) == 0xff807f80u);              // past the largest bf16
    EXPECT(ptx::pack_bf16(NAN, 2.0f) == 0x40007fffu);
}

}  // namespace
