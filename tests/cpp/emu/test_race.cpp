// The race detector: what is ordered stays silent, what is not is reported with both lines. In the other builds these
// kernels only have to run.
#include "check.h"
#include "cuda/arch/barrier.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "emu/barrier.h"

using namespace llmcore;

namespace {

enum class Between { kNothing, kWarp, kBlock, kNamed };

void neighbour_kernel(int* result, Between between) {
    LLMCORE_SHARED(int[64], slots);
    slots[threadIdx.x] = 1;
    if (between == Between::kWarp) __syncwarp();
    if (between == Between::kBlock) __syncthreads();
    if (between == Between::kNamed) ptx::bar_sync(1, 64);
    result[blockIdx.x * 64 + threadIdx.x] = slots[threadIdx.x ^ 1];
}

constexpr int kFarLine = __LINE__ + 3;
void far_kernel(int* result) {
    LLMCORE_SHARED(int[64], slots);
    slots[threadIdx.x] = 1;
    __syncwarp();
    result[threadIdx.x] = slots[threadIdx.x ^ 32];  // another warp's: __syncwarp is not enough
}

void overwrite_kernel(int* result) {
    LLMCORE_SHARED(int[64], slots);
    slots[threadIdx.x] = 1;
    __syncthreads();
    result[threadIdx.x] = slots[threadIdx.x ^ 1];
    slots[threadIdx.x] = 2;  // write after read
}

void expect_race(const std::string& part, const std::function<void()>& body) {
    for_every_policy([&] {
        Outcome outcome = outcome_of(body);
        if (!emu::race_detection()) return;
        if (outcome.kind != "race" || outcome.text.find(part) == std::string::npos)
            throw std::runtime_error("expected a race with \"" + part + "\", got \"" + outcome.text + "\"");
    });
}

TEST(the_race_build_detects_races) {
#if defined(__SANITIZE_THREAD__)
    EXPECT(emu::race_detection());
#else
    EXPECT(!emu::race_detection());
#endif
}

TEST(ordered_accesses_are_no_race) {
    for (Between between : {Between::kWarp, Between::kBlock, Between::kNamed})
        for_every_policy([&] {
            int result[128];
            launch({2, 64}, neighbour_kernel, result, between);
        });
}

TEST(unordered_accesses_are_reported_with_both_lines) {
    static int result[64];
    expect_race("[test_race.cpp:", [] { launch({1, 64}, neighbour_kernel, result, Between::kNothing); });
    for (int line : {kFarLine, kFarLine + 2})  // which of the two is found first depends on the order
        expect_race("test_race.cpp:" + std::to_string(line), [] { launch({1, 64}, far_kernel, result); });
    expect_race("test_race.cpp:", [] { launch({1, 64}, overwrite_kernel, result); });
}

void same_place_kernel(int* result) {
    result[threadIdx.x] = 7;
}

TEST(two_blocks_may_not_store_to_one_address) {
    static int result[64];
    expect_race("write of a global address is not ordered after the write by another block at test_race.cpp:",
                [] { launch({2, 64}, same_place_kernel, result); });
    launch({1, 64}, same_place_kernel, result);
}

}  // namespace
