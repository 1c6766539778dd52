// Global memory: vectors and their conversions, acquire and release between blocks, atomics, kernels that overlap. What
// orders and what does not follows PTX ISA 8, "Memory Consistency Model" (release and acquire patterns, 8.8 and 8.9);
// griddepcontrol 9.7.13.13; ld and st 9.7.9.8 and 9.7.9.11.
#include <cstring>
#include <memory>

#include "bf16.h"
#include "check.h"
#include "cuda/arch/grid.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"
#include "cuda/vec.cuh"

using namespace llmcore;

namespace {

// In the race build the launch must end with a race that names `part`; in the others it only runs.
void expect_race(const std::string& part, const std::function<void()>& body) {
    Outcome outcome = outcome_of(body);
    if (!emu::race_detection()) return;
    if (outcome.kind != "race" || outcome.text.find(part) == std::string::npos)
        throw std::runtime_error("expected a race with \"" + part + "\", got \"" + outcome.text + "\"");
}

// ---------------------------------------------------------------------------------------------------------------------
// vectors

template <class T, ptx::Cache kLoad, ptx::Cache kStore>
void copy_kernel(T* out, float* floats, const T* in, int vectors) {
    for (int i = int(threadIdx.x); i < vectors; i += 32) {
        float values[kPerVector<T>];
        load_vector<kLoad>(values, in + i * kPerVector<T>);
        for (int j = 0; j < kPerVector<T>; ++j) floats[i * kPerVector<T> + j] = values[j];
        for (float& value : values) value *= 1.0078125f;  // so that bf16 has to round, ties included
        store_vector<kStore>(out + i * kPerVector<T>, values);
    }
}

// Exactly 37 vectors, so that AddressSanitizer sees one more.
template <ptx::Cache kLoad, ptx::Cache kStore>
void check_bf16() {
    constexpr int kCount = 37 * 8;
    std::unique_ptr<bf16[]> in(new bf16[kCount]), out(new bf16[kCount]);
    std::unique_ptr<float[]> floats(new float[kCount]);
    for (int i = 0; i < kCount; ++i) in[size_t(i)].bits = bf16_bits(random_number() * float(1 << i % 20));
    launch({1, 32}, copy_kernel<bf16, kLoad, kStore>, out.get(), floats.get(), in.get(), kCount / 8);
    for (size_t i = 0; i < kCount; ++i) {
        EXPECT(double(floats[i]) == bf16_value(in[i].bits));
        // The nearest of the two neighbours in bf16, the even one of a tie, found by trying.
        double exact = double(floats[i]) * 1.0078125;
        uint16_t best = in[i].bits;
        for (int step = -3; step <= 3; ++step) {
            auto candidate = uint16_t(in[i].bits + step);
            double error = std::fabs(bf16_value(candidate) - exact), least = std::fabs(bf16_value(best) - exact);
            if (error < least || (error == least && candidate % 2 == 0)) best = candidate;
        }
        EXPECT(out[i].bits == best);
    }
}

TEST(vectors_of_bf16_become_floats_and_round_to_nearest_even) {
    using ptx::Cache;
    check_bf16<Cache::kNormal, Cache::kNormal>();
    check_bf16<Cache::kStreaming, Cache::kStreaming>();
    check_bf16<Cache::kNoAllocate, Cache::kNormal>();
}

TEST(vectors_of_floats_are_copied) {
    alignas(16) float in[12], out[12], floats[12];
    for (float& value : in) value = random_number();
    launch({1, 32}, copy_kernel<float, ptx::Cache::kStreaming, ptx::Cache::kNormal>, out, floats, in, 3);
    for (int i = 0; i < 12; ++i) EXPECT(floats[i] == in[i] && out[i] == in[i] * 1.0078125f);
}

void misaligned_kernel(const float* source) {
    float values[4];
    load_vector(values, source + 1);
}

void self_reading_kernel(float* data) {
    float values[4] = {1, 2, 3, 4};
    store_vector(data, values);
    load_vector<ptx::Cache::kNoAllocate>(values, data);
}

TEST(misused_vectors_are_refused) {
    alignas(16) static float data[8];
    expect_error("align", "a vector access of 16 bytes is not aligned to them [test_global.cpp:", [] {
        launch({1, 1}, misaligned_kernel, data);
    });
    expect_race("through the read-only path of what this kernel stored at global.cuh:",
                [] { launch({1, 1}, self_reading_kernel, data); });
}

// ---------------------------------------------------------------------------------------------------------------------
// blocks that order each other

// Each block adds its number to one sum, in the order of the blocks: a turnstile, as split-K needs it.
enum class Turnstile { kRight, kRelaxed, kNoBarrier };

void turnstile_kernel(float* sum, uint32_t* turn, Turnstile how) {
    if (threadIdx.x == 0)
        while (ptx::load_acquire(turn) != blockIdx.x) {
        }
    __syncthreads();
    sum[threadIdx.x] = sum[threadIdx.x] * 2 + float(blockIdx.x);
    if (how != Turnstile::kNoBarrier) __syncthreads();
    if (threadIdx.x != 0) return;
    if (how == Turnstile::kRelaxed)
        atomicAdd(turn, 1u);
    else
        ptx::store_release(turn, blockIdx.x + 1);
}

void run_turnstile(Turnstile how, float (&sums)[64]) {
    uint32_t turn = 0;
    for (float& sum : sums) sum = 1;
    launch({.grid = 5, .block = 64, .all_resident = true}, turnstile_kernel, sums, &turn, how);
}

TEST(a_turnstile_orders_blocks) {
    for_every_policy([] {
        float sums[64], expected = 1;
        for (int block = 0; block < 5; ++block) expected = expected * 2 + float(block);
        run_turnstile(Turnstile::kRight, sums);
        for (float sum : sums) EXPECT(sum == expected);
    });
}

TEST(a_turnstile_without_release_or_barrier_is_a_race) {
    static float sums[64];
    for_every_policy([] {
        expect_race("of a global address is not ordered after the write by thread",
                    [] { run_turnstile(Turnstile::kRelaxed, sums); });
        expect_race("of a global address is not ordered after the write by thread",
                    [] { run_turnstile(Turnstile::kNoBarrier, sums); });
    });
}

// The block that comes last adds up what all have left: one cluster after another, or all at once.
enum class Last { kAcquireRelease, kFences, kNoFence };

void last_block_kernel(int* partials, int* total, uint32_t* count, Last how) {
    partials[blockIdx.x] = int(blockIdx.x) + 1;
    uint32_t old;
    if (how == Last::kAcquireRelease) {
        old = ptx::add_acquire_release(count, 1);
    } else {
        if (how == Last::kFences) __threadfence();
        old = atomicAdd(count, 1u);
        if (how == Last::kFences) __threadfence();
    }
    if (old + 1 < gridDim.x) return;
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += partials[i];
    *total = sum;
}

TEST(the_last_block_sees_what_all_have_left) {
    for (bool all_resident : {false, true})
        for (Last how : {Last::kAcquireRelease, Last::kFences})
            for_every_policy([&] {
                int partials[6], total = 0;
                uint32_t count = 0;
                launch({.grid = 6, .block = 1, .all_resident = all_resident}, last_block_kernel, partials, &total,
                       &count, how);
                EXPECT(total == 21);
            });
}

TEST(the_last_block_needs_fences) {
    static int partials[6], total;
    static uint32_t count;
    for_every_policy([] {
        count = 0;
        expect_race("read of a global address is not ordered after the write by another block at test_global.cpp:",
                    [] { launch({6, 1}, last_block_kernel, partials, &total, &count, Last::kNoFence); });
    });
}

void relaxed_kernel(float* sum, int* shared_sum) {
    LLMCORE_SHARED(int, count);
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1);
    ptx::add_relaxed(sum, 1.0f);
    __syncthreads();
    if (threadIdx.x == 0) shared_sum[blockIdx.x] = count;
}

TEST(atomics_do_not_race_with_each_other) {
    for_every_policy([] {
        float sum = 0;
        int counts[3];
        launch({3, 64}, relaxed_kernel, &sum, counts);
        EXPECT(sum == 192 && counts[0] == 64 && counts[1] == 64 && counts[2] == 64);
    });
}

void mixed_kernel(int* word, bool shared) {
    LLMCORE_SHARED(int, count);
    int* target = shared ? &count : word;
    if (threadIdx.x == 0)
        *target = 5;
    else
        atomicAdd(target, 1);
}

TEST(an_atomic_and_a_plain_store_race) {
    static int word;
    for_every_policy([] {
        expect_race("of a global address is not ordered", [] { launch({1, 2}, mixed_kernel, &word, false); });
        expect_race("of shared address 0x", [] { launch({1, 2}, mixed_kernel, &word, true); });
    });
}

void neighbour_kernel(int* result) {
    result[blockIdx.x] = 1;
    if (blockIdx.x == gridDim.x - 1) result[0] += result[1];  // which another block may not have stored yet
}

TEST(reading_what_another_block_writes_is_a_race) {
    static int result[2];
    for_every_policy([] {
        expect_race("of a global address is not ordered after the", [] { launch({2, 1}, neighbour_kernel, result); });
    });
}

void waiting_kernel(uint32_t* word) {
    while (ptx::load_acquire(word) == 0) {
    }
}

TEST(a_loop_that_nobody_can_end_is_a_deadlock) {
    static uint32_t word = 0;
    for_every_policy([] {
        expect_error("deadlock", "nothing can change the word at 0x",
                     [] { launch({.grid = 2, .block = 33, .all_resident = true}, waiting_kernel, &word); });
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// kernels that overlap

enum class Wait { kBefore, kNever, kByOneThread, kAfterWriting };

void first_kernel(float* data, const float* input) {
    ptx::allow_next_kernel();
    data[threadIdx.x] = input[threadIdx.x] + 1;
}

void second_kernel(float* out, const float* data, float* input, Wait wait) {
    if (wait == Wait::kAfterWriting) input[threadIdx.x] = 0;
    if (wait == Wait::kBefore || wait == Wait::kAfterWriting || (wait == Wait::kByOneThread && threadIdx.x == 0))
        ptx::wait_for_previous_kernel();
    if (wait == Wait::kByOneThread) __syncthreads();
    out[threadIdx.x] = data[threadIdx.x] * 2;
}

void run_both(Wait wait, bool overlaps) {
    static float input[64], data[64], out[64];
    for (int i = 0; i < 64; ++i) input[i] = float(i);
    launch({1, 64}, first_kernel, data, input);
    launch({.grid = 1, .block = 64, .overlaps_previous = overlaps}, second_kernel, out, data, input, wait);
    for (int i = 0; i < 64; ++i) EXPECT(out[i] == float(i + 1) * 2);
}

TEST(a_kernel_that_overlaps_has_to_wait_before_it_reads) {
    for_every_policy([] {
        run_both(Wait::kBefore, true);
        run_both(Wait::kByOneThread, true);  // and a barrier
        run_both(Wait::kNever, false);       // an ordinary launch
        expect_race("after the write by an earlier kernel (griddepcontrol.wait is missing) at test_global.cpp:",
                    [] { run_both(Wait::kNever, true); });
    });
}

TEST(a_kernel_that_overlaps_has_to_wait_before_it_overwrites) {
    for_every_policy([] {
        expect_race("after the read by an earlier kernel (griddepcontrol.wait is missing) at test_global.cpp:",
                    [] { run_both(Wait::kAfterWriting, true); });
    });
}

void third_kernel(float* result, const float* data) {
    result[threadIdx.x] = data[threadIdx.x];
}

TEST(what_ended_before_the_previous_kernel_began_is_known) {
    static float input[64], data[64], between[64], out[64];
    for_every_policy([] {
        launch({1, 64}, first_kernel, data, input);
        launch({1, 64}, third_kernel, between, input);  // ordinary: the first has ended
        launch({.grid = 1, .block = 64, .overlaps_previous = true}, third_kernel, out, data);
    });
}

}  // namespace
