// cp.async and mbarrier: what has landed when, phases, and misuse.
#include <memory>

#include "check.h"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/cp_async.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"

using namespace llmcore;

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// cp.async

template <int kBytes>
void copy_kernel(unsigned char* result, const unsigned char* source, int source_bytes) {
    unsigned char* shared = shared_memory<unsigned char>();
    ptx::cp_async<kBytes>(shared_address(shared) + kBytes, source, source_bytes);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    for (int i = 0; i < 3 * kBytes; ++i) result[i] = shared[i];
}

template <int kBytes>
void check_copy() {
    for (int source_bytes = 0; source_bytes <= kBytes; ++source_bytes) {
        alignas(16) unsigned char result[3 * kBytes];
        // Exactly what may be read, so that AddressSanitizer sees one byte more.
        std::unique_ptr<unsigned char[]> source(new unsigned char[size_t(source_bytes)]);
        for (int i = 0; i < source_bytes; ++i) source[size_t(i)] = static_cast<unsigned char>(i + 1);
        launch({1, 1, 64}, copy_kernel<kBytes>, result, source.get(), source_bytes);
        for (int i = 0; i < 3 * kBytes; ++i) {
            int expected = i < kBytes || i >= 2 * kBytes ? 0xff : i - kBytes < source_bytes ? i - kBytes + 1 : 0;
            EXPECT(result[i] == expected);
        }
    }
}

TEST(cp_async_copies_and_fills_with_zeros) {
    for_every_policy([] { check_copy<4>(), check_copy<8>(), check_copy<16>(); });
}

void groups_kernel(float* result, const float* source) {
    float* shared = shared_memory<float>();
    for (int group = 0; group < 4; ++group) {
        ptx::cp_async<4>(shared_address(shared + group), source + group, 4);
        ptx::cp_async_commit();
    }
    ptx::cp_async_wait<2>();
    for (int i = 0; i < 4; ++i) result[i] = shared[i];
}

TEST(a_wait_promises_only_its_groups) {
    const float source[4] = {1, 2, 3, 4};
    for (emu::Landing landing : {emu::Landing::kLate, emu::Landing::kEarly}) {
        float result[4];
        emu::policy().copies = landing;
        launch({1, 1, 16}, groups_kernel, result, source);
        EXPECT(result[0] == 1 && result[1] == 2);
        bool early = landing == emu::Landing::kEarly;
        EXPECT(early ? result[3] == 4 : std::isnan(result[2]) && std::isnan(result[3]));
    }
}

void misaligned_copy(const char* source) {
    ptx::cp_async<8>(shared_address(shared_memory<char>()) + 4, source, 8);
}

void long_copy(const char* source) {
    ptx::cp_async<8>(shared_address(shared_memory<char>()), source, 9);
}

TEST(impossible_copies_are_refused) {
    alignas(16) static char source[16];
    expect_error("align", "cp.async operand", [] { launch({1, 1, 64}, misaligned_copy, source); });
    expect_error("cp.async", "9 of 8 bytes", [] { launch({1, 1, 64}, long_copy, source); });
}

// ---------------------------------------------------------------------------------------------------------------------
// mbarrier

// A ring of two stages between a producing and a consuming warp.
void ring_kernel(int* result, int rounds) {
    LLMCORE_SHARED(uint64_t[4], barriers);
    LLMCORE_SHARED(int[2][32], boxes);
    uint32_t full = shared_address(&barriers[0]), empty = shared_address(&barriers[2]);
    int lane = int(threadIdx.x) % 32;
    if (threadIdx.x == 0)
        for (uint32_t s = 0; s < 2; ++s) {
            ptx::mbarrier_init(full + s * 8, 32);
            ptx::mbarrier_init(empty + s * 8, 32);
        }
    ptx::fence_mbarrier_init();
    __syncthreads();
    for (int i = 0; i < rounds; ++i) {
        uint32_t s = uint32_t(i) % 2, parity = uint32_t(i) / 2 % 2;
        if (threadIdx.x < 32) {
            ptx::mbarrier_wait(empty + s * 8, parity ^ 1);  // at once on a fresh barrier
            boxes[s][lane] = i * 100 + lane;
            ptx::mbarrier_arrive(full + s * 8);
        } else {
            ptx::mbarrier_wait(full + s * 8, parity);
            result[i * 32 + lane] = boxes[s][31 - lane];
            ptx::mbarrier_arrive(empty + s * 8);
        }
    }
}

TEST(mbarriers_carry_a_ring) {
    for_every_policy([] {
        int result[7 * 32];
        launch({1, 64}, ring_kernel, result, 7);
        for (int i = 0; i < 7 * 32; ++i) EXPECT(result[i] == i / 32 * 100 + 31 - i % 32);
    });
}

void remote_kernel(int* seen) {
    LLMCORE_SHARED(uint64_t, barrier);
    uint32_t b = shared_address(&barrier);
    if (threadIdx.x == 0) ptx::mbarrier_init(b, 1);
    ptx::fence_mbarrier_init();
    ptx::cluster_sync();
    if (threadIdx.x == 0) ptx::mbarrier_arrive_at(b, ptx::cluster_rank() ^ 1);
    ptx::mbarrier_wait(b, 0);
    seen[blockIdx.x * 32 + threadIdx.x] = 1;
    ptx::cluster_sync();
}

TEST(arrivals_reach_the_other_block_of_a_cluster) {
    for_every_policy([] {
        int seen[128] = {};
        launch({4, 32, 0, nullptr, 2}, remote_kernel, seen);
        for (int value : seen) EXPECT(value == 1);
    });
}

// Copies whose arrival is the system's: the consumers wait for the mbarrier, not for a group.
void arrival_kernel(float* result, const float* source, bool wait_myself) {
    LLMCORE_SHARED(uint64_t, word);
    float* shared = shared_memory<float>();
    const uint32_t barrier = shared_address(&word), t = threadIdx.x;
    if (t == 0) ptx::mbarrier_init(barrier, 32);
    __syncthreads();
    if (t < 32) {
        for (uint32_t i = 0; i < 2; ++i) ptx::cp_async<4>(shared_address(shared + t + 32 * i), source + t + 32 * i, 4);
        ptx::cp_async_arrive(barrier);
        if (wait_myself) {  // the group's wait covers copies that an mbarrier tracks, too
            ptx::cp_async_wait_all();
            if (shared[t] != source[t] || shared[t + 32] != source[t + 32]) result[t] = -1;
        }
    } else {
        ptx::mbarrier_wait(barrier, 0);
        result[t - 32] = shared[63 - t];
        result[t] = shared[95 - t];
    }
}

TEST(cp_async_arrives_when_it_has_landed) {
    float source[64];
    for (int i = 0; i < 64; ++i) source[i] = float(i);
    for_every_policy([&] {
        float result[64];
        launch({1, 64, 256}, arrival_kernel, result, source, false);
        for (int i = 0; i < 64; ++i) EXPECT(result[i] == float(i < 32 ? 31 - i : 95 - i));
        launch({1, 32, 256}, arrival_kernel, result, source, true);
        for (float value : result) EXPECT(value != -1);
    });
}

void hinted_kernel(uint32_t* result, const uint32_t* source, bool forged) {
    ptx::CachePolicy policy = ptx::cache_policy<ptx::Evict::kFirst>();
    if (forged) policy.bits += 1;
    ptx::cp_async(shared_address(shared_memory<char>()), source, 12, policy);
    ptx::cp_async<16, true>(shared_address(shared_memory<char>()) + 16, source, 16);
    ptx::cp_async_wait_all();
    for (int i = 0; i < 8; ++i) result[i] = shared_memory<uint32_t>()[i];
}

TEST(cache_hints_and_paths_change_no_value) {
    alignas(16) static const uint32_t source[4] = {5, 6, 7, 8};
    for_every_policy([] {
        uint32_t result[8];
        launch({1, 1, 64}, hinted_kernel, result, source, false);
        const uint32_t expected[8] = {5, 6, 7, 0, 5, 6, 7, 8};
        for (int i = 0; i < 8; ++i) EXPECT(result[i] == expected[i]);
    });
    expect_error("cache-policy", "not a policy of createpolicy",
                 [] { launch({1, 1, 64}, hinted_kernel, static_cast<uint32_t*>(nullptr), source, true); });
}

// Without the fence another block, and the engine of the bulk copies, may not see that the barrier was initialised.
void unfenced_kernel(bool fence) {
    LLMCORE_SHARED(uint64_t, word);
    const uint32_t barrier = shared_address(&word);
    if (threadIdx.x == 0) ptx::mbarrier_init(barrier, 1);
    if (threadIdx.x == 0 && fence) ptx::fence_mbarrier_init();
    ptx::cluster_sync();
    if (threadIdx.x == 0) ptx::mbarrier_arrive_at(barrier, ptx::cluster_rank() ^ 1);
    ptx::mbarrier_wait(barrier, 0);
    ptx::cluster_sync();
}

TEST(barriers_of_a_cluster_need_their_fence) {
    for_every_policy([] {
        launch({2, 32, 0, nullptr, 2}, unfenced_kernel, true);
        expect_error("mbarrier", "used by another block without fence.mbarrier_init by the thread that initialised it",
                     [] { launch({2, 32, 0, nullptr, 2}, unfenced_kernel, false); });
    });
}

void reuse_kernel(int* result) {
    LLMCORE_SHARED(uint64_t, word);
    const uint32_t barrier = shared_address(&word);
    ptx::mbarrier_init(barrier, 2);
    ptx::mbarrier_arrive(barrier);
    ptx::mbarrier_arrive(barrier);
    ptx::mbarrier_wait(barrier, 0);
    ptx::mbarrier_invalidate(barrier);
    word = 7;
    *result = int(word);
    ptx::mbarrier_arrive(barrier);
}

TEST(an_invalidated_barrier_is_ordinary_memory) {
    static int result = 0;
    expect_error("mbarrier", "used before mbarrier.init", [] { launch({1, 1}, reuse_kernel, &result); });
    EXPECT(result == 7);
}

enum class Misuse { kNotInitialised, kOverwritten, kTooMany, kWrongParity, kBytesMissing, kMisaligned };

constexpr int kWrongParityLine = __LINE__ + 9;
void misuse_kernel(Misuse misuse) {
    LLMCORE_SHARED(uint64_t[2], words);
    uint32_t b = shared_address(&words[0]);
    if (misuse == Misuse::kMisaligned) b += 4;
    if (misuse != Misuse::kNotInitialised) ptx::mbarrier_init(b, 1);
    if (misuse == Misuse::kOverwritten) words[0] = 7;
    if (misuse == Misuse::kBytesMissing) ptx::mbarrier_arrive_expect(b, 64);
    if (misuse == Misuse::kWrongParity || misuse == Misuse::kBytesMissing)
        ptx::mbarrier_wait(b, 0);
    else
        ptx::mbarrier_arrive(b);
    if (misuse == Misuse::kTooMany) emu::mbarrier_arrive(b, 2, 0, emu::Location::here());
}

void expect_misuse(Misuse misuse, const std::string& kind, const std::string& part) {
    expect_error(kind, part, [&] { launch({1, 1}, misuse_kernel, misuse); });
}

TEST(misused_mbarriers_are_refused) {
    expect_misuse(Misuse::kNotInitialised, "mbarrier", "used before mbarrier.init");
    expect_misuse(Misuse::kOverwritten, "mbarrier", "word in shared memory was overwritten");
    expect_misuse(Misuse::kTooMany, "mbarrier", "more arrivals than the barrier expects");
    expect_misuse(Misuse::kMisaligned, "align", "not a multiple of 8");
    std::string waits = "mbarrier.try_wait at test_async.cpp:" + std::to_string(kWrongParityLine) + " {mbarrier 0x";
    expect_misuse(Misuse::kWrongParity, "deadlock", waits);
    expect_misuse(Misuse::kWrongParity, "deadlock", " wants parity 0; phase 0 pending 1/1 bytes 0}");
    expect_misuse(Misuse::kBytesMissing, "deadlock", " wants parity 0; phase 0 pending 0/1 bytes 64}");
}

}  // namespace
