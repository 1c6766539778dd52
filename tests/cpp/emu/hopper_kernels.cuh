// Small kernels around single mechanisms of sm_90, with places for bugs (numbers from 24 on, planted_hopper_bugs.cpp):
// a turnstile between blocks, distributed shared memory, TMA reductions, transposing stores, wgmma of several widths
// and layouts, multicast, overlapping kernels.
#pragma once

#include "cuda/arch/cluster.cuh"
#include "cuda/arch/collective.cuh"
#include "cuda/arch/global.cuh"
#include "cuda/arch/grid.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/arch/wgmma.cuh"
#include "cuda/shared.cuh"
#include "cuda/vec.cuh"
#include "planted.h"

namespace llmcore {

// ---------------------------------------------------------------------------------------------------------------------
// total (64) = the sum over blocks of parts (blocks, 64), added in the order of the blocks: the same bits every time.

__global__ void sum_in_turns(float* total, const float* parts, uint32_t* turn) {
    const float mine = parts[blockIdx.x * 64 + threadIdx.x];
    if (threadIdx.x == 0 && planted_bug != 25)
        while (ptx::load_acquire(turn) != blockIdx.x) {
        }
    __syncthreads();
    total[threadIdx.x] = (total[threadIdx.x] + mine) * 0.5f;  // so that the order shows
    if (planted_bug == 26 && blockIdx.x == 2) return;         // leaves without letting the next one in
    if (planted_bug != 24) __syncthreads();
    if (threadIdx.x == 0) ptx::store_release(turn, blockIdx.x + 1);
}

#if LLMCORE_HAS_SM90A

// ---------------------------------------------------------------------------------------------------------------------
// sums (clusters) = the sum of x (clusters, blocks of the cluster, 32): rank 0 gathers from the others.

LLMCORE_DEVICE void gather_sums(float* sums, const float* x) {
    LLMCORE_SHARED(float, partial);
    float value = x[blockIdx.x * 32 + threadIdx.x];
    for (int bits = 16; bits; bits /= 2) value += __shfl_xor_sync(~0u, value, bits);
    if (threadIdx.x == 0) partial = value;
    if (planted_bug != 29) ptx::cluster_sync();
    if (ptx::cluster_rank() == 0 && threadIdx.x == 0) {
        float sum = 0;
        for (uint32_t rank = 0; rank < ptx::cluster_size(); ++rank)
            sum += ptx::load_cluster(ptx::map_to_rank(shared_address(&partial), planted_bug == 28 ? 0 : rank));
        sums[blockIdx.x / ptx::cluster_size()] = sum;
    }
    if (planted_bug != 27) ptx::cluster_sync();
}

// ---------------------------------------------------------------------------------------------------------------------
// gradient (32) += values of every block (blocks, 32), through TMA; then the count of blocks that are done.

LLMCORE_DEVICE void add_gradients(const CUtensorMap* gradient, const float* values, uint32_t* done) {
    float* shared = shared_memory<float>();
    shared[threadIdx.x] = values[blockIdx.x * 32 + threadIdx.x];
    if (planted_bug != 31) ptx::fence_proxy_async();
    __syncwarp();
    if (ptx::elect_one()) {
        if (planted_bug == 30)
            ptx::tma_store(gradient, shared_address(shared), {0});
        else
            ptx::tma_reduce_add(gradient, shared_address(shared), {0});
    }
    // Groups belong to the thread that issued: the elected one has to wait for them, which need not be lane 0.
    if (planted_bug == 32 ? threadIdx.x == 0 : ptx::elect_one()) {
        ptx::bulk_commit();
        if (planted_bug == 33)
            ptx::bulk_wait_read<0>();
        else
            ptx::bulk_wait<0>();
        ptx::add_release(done, 1);
    }
}

// The reader of that gradient, in a block of its own, waits for all the others.
LLMCORE_DEVICE void read_gradient(float* result, const float* gradient, const uint32_t* done, uint32_t blocks) {
    if (threadIdx.x == 0)
        while (ptx::load_acquire(done) != blocks) {
        }
    __syncwarp();
    result[threadIdx.x] = gradient[threadIdx.x];
}

// ---------------------------------------------------------------------------------------------------------------------
// out (16, 16) = in (16, 16) transposed, 16-bit elements, one warp: ldmatrix, then a stmatrix that transposes.

LLMCORE_DEVICE void transpose(uint16_t* out, const uint16_t* in) {
    uint16_t* tile = shared_memory<uint16_t>();
    const uint32_t from = shared_address(tile), to = from + 512, lane = threadIdx.x;
    ptx::store_words(tile + lane * 8, ptx::load_words(in + lane * 8));
    __syncwarp();
    uint32_t r[4];  // matrices (0, 0), (1, 0), (0, 1), (1, 1) of 8x8
    ptx::ldmatrix<4>(r, from + lane % 16 * 32 + lane / 16 * 16);
    // Transposed, (1, 0) goes to (0, 1) and the other way round.
    const uint32_t row = planted_bug == 35 ? lane % 16 : lane % 8 + lane / 16 * 8;
    const uint32_t column = planted_bug == 35 ? lane / 16 : lane / 8 % 2;
    if (planted_bug == 34)
        ptx::stmatrix<4>(to + row * 32 + column * 16, r);
    else
        ptx::stmatrix<4, true>(to + row * 32 + column * 16, r);
    __syncwarp();
    ptx::store_words(out + lane * 8, ptx::load_words(tile + 256 + lane * 8));
}

// ---------------------------------------------------------------------------------------------------------------------
// c (64, N) = a (64, 64) b: a K-major, b in one of three layouts, by TMA and wgmma.

enum class Layout { kKMajor, kMnMajor, kNoSwizzle };

template <int kN, Layout kLayout>
LLMCORE_DEVICE void wide_product(float* c, const CUtensorMap* map_a, const CUtensorMap* map_b) {
    LLMCORE_SHARED(uint64_t, word);
    const uint32_t barrier = shared_address(&word), a = shared_address(shared_memory<char>()), b = a + 8192;
    const int t = int(threadIdx.x);
    if (t == 0) {
        ptx::mbarrier_init(barrier, 1);
        if (planted_bug != 36) ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect(barrier, 8192 + kN * 128);
        ptx::tma_load(a, map_a, barrier, {0, 0});
        if constexpr (kLayout == Layout::kKMajor) ptx::tma_load(b, map_b, barrier, {0, 0});
        if constexpr (kLayout == Layout::kMnMajor)  // boxes of 64 columns
            for (int n = 0; n < kN; n += 64) ptx::tma_load(b + uint32_t(n) * 128, map_b, barrier, {n, 0});
        if constexpr (kLayout == Layout::kNoSwizzle)  // boxes of 8 k
            for (int k = 0; k < 64; k += 8) ptx::tma_load(b + uint32_t(k) * kN * 2, map_b, barrier, {k, 0});
    }
    __syncthreads();
    ptx::mbarrier_wait(barrier, 0);
    float sums[kN / 2];
    ptx::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
        uint64_t operand_b;
        if constexpr (kLayout == Layout::kKMajor) operand_b = ptx::operand(b + k * 32, 16, 1024);
        if constexpr (kLayout == Layout::kMnMajor)
            operand_b = ptx::operand(b + k * 2048, planted_bug == 37 ? 4096 : 8192, 1024);
        if constexpr (kLayout == Layout::kNoSwizzle)
            operand_b = planted_bug == 38 ? ptx::operand(b + k * kN * 32, 128, kN * 16, ptx::OperandSwizzle::kNone)
                                          : ptx::operand(b + k * kN * 32, kN * 16, 128, ptx::OperandSwizzle::kNone);
        ptx::wgmma<kN, false, kLayout == Layout::kMnMajor>(sums, ptx::operand(a + k * 32, 16, 1024), operand_b,
                                                           planted_bug == 39 ? k > 1 : k > 0);
    }
    ptx::wgmma_commit();
    if (planted_bug == 40)
        ptx::wgmma_wait<1>();
    else
        ptx::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
        const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8;
        c[row * kN + i / 4 * 8 + t % 4 * 2 + i % 2] = sums[i];
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// out (blocks of the cluster, 64) = the first 64 of x in every block: each loads its part for all of them.

LLMCORE_DEVICE void share(float* out, const CUtensorMap* map) {
    LLMCORE_SHARED(uint64_t, word);
    const uint32_t barrier = shared_address(&word), rank = ptx::cluster_rank();
    float* shared = shared_memory<float>();
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(barrier, 1);
        ptx::fence_mbarrier_init();
        ptx::mbarrier_arrive_expect(barrier, planted_bug == 42 ? 128 : 256);
    }
    ptx::cluster_sync();
    if (threadIdx.x == 0) {
        const uint16_t all = planted_bug == 41 ? uint16_t(1 << rank) : uint16_t(3);
        ptx::tma_load_multicast(shared_address(shared) + rank * 128, map, barrier, {int(rank) * 32}, all);
    }
    ptx::mbarrier_wait(barrier, 0);
    out[rank * 64 + threadIdx.x] = shared[threadIdx.x];
    out[rank * 64 + 32 + threadIdx.x] = shared[32 + threadIdx.x];
    ptx::cluster_sync();
}

// ---------------------------------------------------------------------------------------------------------------------
// y = 2 x, in place, by 16 bytes; started while the kernel that writes x still runs.

LLMCORE_DEVICE void double_in_place(float* x) {
    if (planted_bug != 43 && (planted_bug != 44 || threadIdx.x == 0)) ptx::wait_for_previous_kernel();
    float values[4];
    load_vector(values, x + threadIdx.x * 4);
    for (float& value : values) value *= 2;
    store_vector(x + threadIdx.x * 4, values);
    __syncwarp();
    if (planted_bug == 45) load_vector<ptx::Cache::kNoAllocate>(values, x + threadIdx.x * 4);
    if (planted_bug == 45) store_vector(x + threadIdx.x * 4, values);
    ptx::allow_next_kernel();
}

// ---------------------------------------------------------------------------------------------------------------------
// largest (32) = the largest of each half warp's values.

LLMCORE_DEVICE void half_maxima(int* largest, const int* values) {
    const uint32_t half = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
    int result = 0;
    if (threadIdx.x < 16)
        result = ptx::reduce_lanes<ptx::Reduce::kMax>(planted_bug == 46 ? ~0u : half, values[threadIdx.x]);
    else
        result = ptx::reduce_lanes<ptx::Reduce::kMax>(planted_bug == 47 ? half >> 16 : half, values[threadIdx.x]);
    largest[threadIdx.x] = result;
}

#endif

// The kernels: empty on other targets, where no dispatch chooses them.
#if LLMCORE_HAS_SM90A
#define LLMCORE_SM90_BODY(...) \
    {                          \
        __VA_ARGS__;           \
    }
#else
#define LLMCORE_SM90_BODY(...) \
    {                          \
    }
#endif
__global__ void gather_sums_kernel(float* sums, const float* x) LLMCORE_SM90_BODY(gather_sums(sums, x)) __global__
    void gradient_kernel(float* result, const __grid_constant__ CUtensorMap map, const float* gradient,
                         const float* values, uint32_t* done)
        LLMCORE_SM90_BODY(if (blockIdx.x + 1 == gridDim.x) read_gradient(result, gradient, done, gridDim.x - 1);
                          else add_gradients(&map, values, done)) __global__
    void transpose_kernel(uint16_t* out, const uint16_t* in)
        LLMCORE_SM90_BODY(transpose(out, in)) template <int kN, Layout kLayout>
        __global__ void __launch_bounds__(128, 1)
            wide_product_kernel(float* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b)
                LLMCORE_SM90_BODY(wide_product<kN, kLayout>(c, &a, &b)) __global__
    void share_kernel(float* out, const __grid_constant__ CUtensorMap map)
        LLMCORE_SM90_BODY(share(out, &map)) __global__ void double_kernel(float* x)
            LLMCORE_SM90_BODY(double_in_place(x)) __global__ void half_maxima_kernel(int* largest, const int* values)
                LLMCORE_SM90_BODY(half_maxima(largest, values))
#undef LLMCORE_SM90_BODY

}  // namespace llmcore
