// cp.async, mbarriers, global memory, clusters, kernels that overlap.
#include "case.h"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/cp_async.cuh"
#include "cuda/arch/global.cuh"
#include "cuda/arch/grid.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/shared.cuh"
#include "cuda/vec.cuh"

namespace conformance {
namespace {

using namespace llmcore;

// 64 bytes a thread: copies of 4, 8 and 16 bytes in groups, some of which read less than they write.
__global__ void copies(unsigned char* out, const unsigned char* in) {
    unsigned char* shared = shared_memory<unsigned char>();
    const uint32_t t = threadIdx.x, to = shared_address(shared) + t * 64;
    const unsigned char* from = in + t * 64;
    ptx::cp_async<4>(to, from, int(t % 5));
    ptx::cp_async<8>(to + 8, from + 8, int(t % 9));
    ptx::cp_async_commit();
    ptx::cp_async<16>(to + 16, from + 16, int(t % 17));
    ptx::cp_async_commit();
    ptx::cp_async<16, true>(to + 32, from + 32, 16);
    ptx::cp_async(to + 48, from + 48, 12, ptx::cache_policy<ptx::Evict::kFirst>());
    ptx::cp_async_wait<1>();
    ptx::cp_async_wait_all();
    shared[t * 64 + 4] = shared[t * 64 + 5] = shared[t * 64 + 6] = shared[t * 64 + 7] = 0;
    for (uint32_t i = 0; i < 64; ++i) out[t * 64 + i] = shared[t * 64 + i];
}

// One warp copies and lets the system arrive; the other arrives itself, expects nothing, and waits through two phases.
__global__ void barriers(unsigned char* out, const unsigned char* in) {
#if LLMCORE_HAS_SM90A
    LLMCORE_SHARED(uint64_t[2], words);
    unsigned char* shared = shared_memory<unsigned char>();
    const uint32_t first = shared_address(&words[0]), second = shared_address(&words[1]), t = threadIdx.x;
    if (t == 0) {
        ptx::mbarrier_init(first, 33);
        ptx::mbarrier_init(second, 32);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    for (uint32_t phase = 0; phase < 2; ++phase) {
        if (t < 32) {
            if (phase) ptx::mbarrier_wait(second, 0);
            ptx::cp_async<16>(shared_address(shared) + t * 16, in + phase * 512 + t * 16, 16);
            ptx::cp_async_arrive(first);
            ptx::cp_async_wait_all();
        } else {
            if (t == 32) {
                ptx::mbarrier_expect(first, 0);
                ptx::mbarrier_arrive(first);
            }
            ptx::mbarrier_wait(first, phase);
            for (uint32_t i = 0; i < 16; ++i) out[phase * 512 + (t - 32) * 16 + i] = shared[(63 - t) * 16 + i];
            ptx::mbarrier_arrive(second);
        }
    }
    __syncthreads();
    if (t == 0) ptx::mbarrier_invalidate(first);
#endif
}

template <ptx::Cache kLoad, ptx::Cache kStore>
__global__ void vectors(unsigned char* out, const unsigned char* in) {
    const auto* halves = reinterpret_cast<const bf16*>(in) + threadIdx.x * 8;
    float eight[8], four[4];
    load_vector<kLoad>(eight, halves);
    store_vector<kStore>(reinterpret_cast<float*>(out) + threadIdx.x * 8, {eight[0], eight[1], eight[2], eight[3]});
    store_vector<kStore>(reinterpret_cast<float*>(out) + threadIdx.x * 8 + 4, {eight[4], eight[5], eight[6], eight[7]});
    load_vector<kLoad>(four, reinterpret_cast<const float*>(in + 512) + threadIdx.x * 4);
    float rounded[8];
    for (int i = 0; i < 8; ++i) rounded[i] = four[i % 4] * (i < 4 ? 1.0f : 1.00390625f);
    store_vector<kStore>(reinterpret_cast<bf16*>(out + 1024) + threadIdx.x * 8, rounded);
}

void fill_numbers(Random& random, Bytes& input) {  // no NaN, whose bits are not said
    for (size_t i = 0; i + 4 <= input.size(); i += 4) {
        float value = random.number() * float(1 << random.bits() % 20) * 1.0009765625f;
        memcpy(&input[i], &value, 4);
    }
}

// The blocks fold their words into one in their order, count themselves, and the last adds up; sums of small integers
// come out the same in any order.
__global__ void turns(uint32_t* out, const unsigned char* in) {
    uint32_t word, *turn = out + 4, *count = out + 5;
    memcpy(&word, in + blockIdx.x * 4, 4);
    while (ptx::load_acquire(turn) != blockIdx.x) {
    }
    out[0] = out[0] * 3 + word;
    ptx::store_release(turn, blockIdx.x + 1);
    ptx::add_relaxed(reinterpret_cast<float*>(out + 1), float(word % 1024));
    ptx::add_release(out + 3, word % 1024);
    if (ptx::add_acquire_release(count, 1) + 1 == gridDim.x) out[2] = out[0] ^ ptx::load_acquire(out + 3);
}

__global__ void clear(uint32_t* out) {
    for (int i = 0; i < 6; ++i) out[i] = 0;
}

void start_turns(unsigned char* out, const unsigned char* in) {
    launch({1, 1}, clear, reinterpret_cast<uint32_t*>(out));
    launch({.grid = 8, .block = 1, .all_resident = true}, turns, reinterpret_cast<uint32_t*>(out), in);
}

// Blocks of a cluster write into each other's memory in every way there is.
__global__ void cluster(unsigned char* out, const unsigned char* in) {
#if LLMCORE_HAS_SM90A
    LLMCORE_SHARED(uint64_t, word);
    LLMCORE_SHARED(float[32], stored);
    LLMCORE_SHARED(float4[32], wide);
    LLMCORE_SHARED(float[32], sent);
    unsigned char* shared = shared_memory<unsigned char>();
    const uint32_t barrier = shared_address(&word), rank = ptx::cluster_rank(), t = threadIdx.x;
    const uint32_t to = (rank + 1) % ptx::cluster_size();
    float value[4];
    memcpy(value, in + rank * 512 + t * 16, 16);
    for (uint32_t i = 0; i < 16; ++i) shared[t * 16 + i] = in[rank * 512 + t * 16 + i];
    if (t == 0) {
        ptx::mbarrier_init(barrier, 1 + ptx::cluster_size());
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect(barrier, 512 + 128);
    }
    ptx::fence_proxy_async();
    ptx::cluster_sync();
    ptx::store_cluster(ptx::map_to_rank(shared_address(&stored[t]), to), value[0]);
    ptx::store_cluster4(ptx::map_to_rank(shared_address(&wide[t]), to), {value[0], value[1], value[2], value[3]});
    ptx::store_async_cluster(ptx::map_to_rank(shared_address(&sent[t]), to), value[1], ptx::map_to_rank(barrier, to));
    if (t == 0)
        ptx::bulk_copy_to_cluster(ptx::map_to_rank(shared_address(shared) + 512, to), shared_address(shared), 512,
                                  ptx::map_to_rank(barrier, to));
    if (t < ptx::cluster_size()) ptx::mbarrier_arrive_at(barrier, t);
    ptx::mbarrier_wait(barrier, 0);
    unsigned char* mine = out + rank * 2048 + t * 64;
    memcpy(mine, &sent[t], 4);
    for (uint32_t i = 0; i < 16; ++i) mine[4 + i] = shared[512 + t * 16 + i];
    ptx::cluster_arrive();
    ptx::cluster_wait();
    const float far = ptx::load_cluster(ptx::map_to_rank(shared_address(&stored[t]), to));
    const float4 farther = ptx::load_cluster4(ptx::map_to_rank(shared_address(&wide[t]), to));
    memcpy(mine + 20, &far, 4);
    memcpy(mine + 24, &farther, 16);
    ptx::cluster_sync();
#endif
}

__global__ void first_of_two(uint32_t* between, const unsigned char* in) {
#if LLMCORE_HAS_SM90A
    ptx::allow_next_kernel();
    memcpy(&between[threadIdx.x], in + threadIdx.x * 4, 4);
#endif
}

__global__ void second_of_two(uint32_t* out, const uint32_t* between) {
#if LLMCORE_HAS_SM90A
    ptx::wait_for_previous_kernel();
    out[threadIdx.x] = between[threadIdx.x ^ 1] * 5;
#endif
}

void start_overlapping(unsigned char* out, const unsigned char* in) {
    auto* words = reinterpret_cast<uint32_t*>(out);
    launch({1, 64}, first_of_two, words + 64, in);
    launch({.grid = 1, .block = 64, .overlaps_previous = true}, second_of_two, words, words + 64);
}

}  // namespace

void add_memory_cases() {
    using ptx::Cache;
    std::vector<Case>& cases = all_cases();
    cases.push_back({"cp.async", 80, 0, 2048, 2048, nullptr,
                     [](unsigned char* out, const unsigned char* in) { launch({1, 32, 2048}, copies, out, in); }});
    cases.push_back({"mbarrier, cp.async arrivals", 90, 0, 1024, 1024, nullptr,
                     [](unsigned char* out, const unsigned char* in) { launch({1, 64, 512}, barriers, out, in); }});
    cases.push_back({"vectors", 80, 0, 1024, 1536, fill_numbers, [](unsigned char* out, const unsigned char* in) {
                         launch({1, 32}, vectors<Cache::kNormal, Cache::kNormal>, out, in);
                     }});
    cases.push_back(
        {"vectors, streaming", 80, 0, 1024, 1536, fill_numbers, [](unsigned char* out, const unsigned char* in) {
             launch({1, 32}, vectors<Cache::kStreaming, Cache::kStreaming>, out, in);
         }});
    cases.push_back(
        {"vectors, read-only path", 80, 0, 1024, 1536, fill_numbers, [](unsigned char* out, const unsigned char* in) {
             launch({1, 32}, vectors<Cache::kNoAllocate, Cache::kNormal>, out, in);
         }});
    cases.push_back({"acquire, release", 80, 0, 32, 24, nullptr, start_turns});
    cases.push_back({"clusters", 90, 0, 2048, 4 * 2048, nullptr, [](unsigned char* out, const unsigned char* in) {
                         launch({4, 32, 1024, nullptr, 4}, cluster, out, in);
                     }});
    cases.push_back({"griddepcontrol", 90, 0, 256, 512, nullptr, start_overlapping});
}

}  // namespace conformance
