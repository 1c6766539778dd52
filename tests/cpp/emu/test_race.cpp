// The race detector: what is ordered stays silent, what is not is reported with both lines. In the other builds these
// kernels only have to run.
#include <cstring>

#include "check.h"
#include "cuda/arch/barrier.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "emu/barrier.h"
#include "emu/conflicts.h"

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

// Lanes read words `stride` apart: gcd(stride, 32) of them share a bank.
template <class T>
void strided_kernel(float* result, int stride) {
    LLMCORE_SHARED(T[32 * 33], table);
    if (threadIdx.x == 0)
        for (T& element : table) element = T{};
    __syncwarp();
    T mine = table[threadIdx.x * unsigned(stride)];
    memcpy(&result[threadIdx.x * sizeof(T) / 4], &mine, sizeof(T));
}

TEST(ordinary_accesses_count_their_bank_conflicts) {
    static float result[128];
    emu::policy().count_bank_conflicts = true;
    auto conflicts = [](auto kernel, int stride) {
        emu::statistics() = {};
        launch({1, 32}, kernel, result, stride);
        return emu::statistics().shared_bank_conflicts;
    };
    const uint64_t seen = emu::race_detection() ? 1 : 0;  // the other builds do not see ordinary accesses
    for (auto [stride, expected] : {std::pair{0, 0}, {1, 0}, {2, 1}, {4, 3}, {8, 7}, {32, 31}, {33, 0}, {3, 0}})
        EXPECT(conflicts(strided_kernel<float>, stride) == seen * uint64_t(expected));
    // Sixteen bytes go by eight lanes: at stride 1 they fill the banks once, at stride 2 each bank gives two words.
    for (auto [stride, expected] : {std::pair{1, 0}, {2, 4}, {4, 12}, {33, 0}})
        EXPECT(conflicts(strided_kernel<float4>, stride) == seen * uint64_t(expected));
    conflicts(strided_kernel<float>, 32);
    if (emu::race_detection())
        EXPECT(emu::conflicts_by_line().front().line.find("test_race.cpp:") == 0 &&
               emu::conflicts_by_line().front().conflicts == 31);
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
