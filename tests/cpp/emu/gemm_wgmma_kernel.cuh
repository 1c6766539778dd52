// C (M, N) float = A (M, K) B (N, K)^T in bf16 with TMA, mbarrier and wgmma, with places for bugs: tiles of 128x128x64,
// a producing warpgroup and two multiplying 64x128 each, four stages. kMnMajor: B is stored (K, N). kStore: the
// epilogue goes through stmatrix and a TMA store of bf16. kCluster blocks along M share B: each loads its part for all
// of them. kARegisters: A comes through registers, as P does in attention.
#pragma once

#include "cuda/arch/barrier.cuh"
#include "cuda/arch/cluster.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/arch/wgmma.cuh"
#include "cuda/shared.cuh"
#include "gemm_mma_kernel.cuh"

namespace llmcore {

constexpr int kWideStages = 4, kABytes = 128 * 64 * 2, kBBytes = 128 * 64 * 2, kStageBytes = kABytes + kBBytes;
constexpr int kGemmWgmmaShared = kWideStages * kStageBytes + 2 * kWideStages * 8;

#if LLMCORE_HAS_SM90A
template <bool kMnMajor, int kCluster>
LLMCORE_DEVICE void produce(uint32_t shared, uint32_t full, uint32_t empty, const CUtensorMap* map_a,
                            const CUtensorMap* map_b, int m0, int n0, int steps) {
    const int rank = kCluster > 1 ? int(ptx::cluster_rank()) : 0;
    constexpr uint16_t kAll = (1 << kCluster) - 1;
#pragma unroll 1
    for (int t = 0; t < steps; ++t) {
        const uint32_t s = uint32_t(t % kWideStages), a = shared + s * kStageBytes, b = a + kABytes, bar = full + s * 8;
        ptx::mbarrier_wait(empty + s * 8, uint32_t(t / kWideStages & 1) ^ (planted_bug != 8));
        ptx::mbarrier_arrive_expect(bar, planted_bug == 9 ? kABytes : kStageBytes);
        ptx::tma_load(a, map_a, bar, {t * 64, m0});
        if constexpr (kMnMajor) {  // two halves of 64 columns
            for (int h = 0; h < 2; ++h) {
                if (kCluster == 1) ptx::tma_load(b + uint32_t(h) * 8192, map_b, bar, {n0 + h * 64, t * 64});
                if (kCluster == 2 && h == rank)
                    ptx::tma_load_multicast(b + uint32_t(h) * 8192, map_b, bar, {n0 + h * 64, t * 64}, kAll);
            }
        } else if constexpr (kCluster == 1) {
            ptx::tma_load(b, map_b, bar, {t * 64, n0});
        } else {
            ptx::tma_load_multicast(b + uint32_t(rank) * (kBBytes / kCluster), map_b, bar,
                                    {t * 64, n0 + rank * (128 / kCluster)}, kAll);
        }
    }
}

template <bool kMnMajor, int kCluster, bool kARegisters>
LLMCORE_DEVICE void consume(float (&sums)[64], uint32_t shared, uint32_t full, uint32_t empty, int part, int steps) {
    const int thread = int(threadIdx.x) % 128;
#pragma unroll 1
    for (int t = 0; t < steps; ++t) {
        const uint32_t s = uint32_t(t % kWideStages), b = shared + s * kStageBytes + kABytes;
        const uint32_t a = shared + s * kStageBytes + uint32_t(part) * 8192;
        ptx::mbarrier_wait(full + s * 8, uint32_t(t / kWideStages & 1) ^ (planted_bug == 3));
        uint32_t fragments[4][4];
        if constexpr (kARegisters)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::ldmatrix<4>(fragments[k], swizzled(a, thread / 32 * 16 + thread % 16, k * 2 + thread % 32 / 16));
        if (planted_bug != 14) ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const uint64_t operand_b = kMnMajor ? ptx::operand(b + uint32_t(k) * 2048, 8192, 1024)
                                                : ptx::operand(b + uint32_t(k) * 32, 16, 1024);
            if constexpr (kARegisters)
                ptx::wgmma<128, kMnMajor>(sums, fragments[k], operand_b, true);
            else
                ptx::wgmma<128, false, kMnMajor>(
                    sums, ptx::operand(a + uint32_t(k) * (planted_bug == 4 ? 16 : 32), 16, 1024), operand_b, true);
        }
        ptx::wgmma_commit();
        if (planted_bug != 10) ptx::wgmma_wait<0>();
        if (kARegisters && planted_bug != 20) {  // every warp's own ldmatrix reads come before its arrival
            __syncwarp();
            if (thread % 32 == 0) ptx::mbarrier_arrive(empty + s * 8);
        } else if constexpr (kCluster == 1) {
            if (thread == 0) ptx::mbarrier_arrive(empty + s * 8);
        } else {
            if (thread < kCluster) ptx::mbarrier_arrive_at(empty + s * 8, uint32_t(thread));
        }
        if (planted_bug == 10) ptx::wgmma_wait<0>();  // the stage was released before it had been read
    }
}

LLMCORE_DEVICE uint32_t pack_bf16(float low, float high) {
    auto round = [](float value) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    };
    return round(low) | round(high) << 16;
}

// A warpgroup's 64x128 through its own, now idle, part of the first stage, as two swizzled boxes of 64x64.
LLMCORE_DEVICE void store_tile(const float (&sums)[64], uint32_t shared, const CUtensorMap* map_c, int part, int m,
                               int n) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) % 128 / 32;
    ptx::bar_sync(1, 256);  // both warpgroups are done with every stage
    const uint32_t box = shared + uint32_t(part) * 16384;
#pragma unroll
    for (int j = 0; j < 8; ++j) {  // 16 columns at a time
        uint32_t r[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) r[e] = pack_bf16(sums[j * 8 + e * 2], sums[j * 8 + e * 2 + 1]);
        ptx::stmatrix<4>(swizzled(box + uint32_t(j / 4) * 8192, warp * 16 + lane % 16, (j * 2 + lane / 16) % 8), r);
    }
    if (planted_bug != 11) ptx::fence_proxy_async();
    if (planted_bug != 12) part ? ptx::bar_sync(3, 128) : ptx::bar_sync(2, 128);
    if (threadIdx.x % 128 == 0) {
        for (int h = 0; h < 2; ++h) ptx::tma_store(map_c, box + uint32_t(h) * 8192, {n + h * 64, m});
        ptx::bulk_commit();
        if (planted_bug != 13) ptx::bulk_wait_read<0>();
    }
}
#endif

template <bool kMnMajor, bool kStore, int kCluster, bool kARegisters>
__global__ void __launch_bounds__(384, 1)
    gemm_wgmma(float* c, const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
               const __grid_constant__ CUtensorMap map_c, int M, int N, int K) {
#if LLMCORE_HAS_SM90A
    const uint32_t shared = shared_address(shared_memory<char>()), full = shared + kWideStages * kStageBytes;
    const uint32_t empty = full + kWideStages * 8;
    const int m0 = int(blockIdx.x) * 128, n0 = int(blockIdx.y) * 128, steps = (K + 63) / 64;
    if (threadIdx.x == 0) {
        for (uint32_t s = 0; s < kWideStages; ++s) {
            ptx::mbarrier_init(full + s * 8, 1);
            ptx::mbarrier_init(empty + s * 8, kARegisters && planted_bug != 20 ? 8 : 2 * kCluster);
        }
        ptx::fence_mbarrier_init();
    }
    if constexpr (kCluster > 1)
        ptx::cluster_sync();
    else
        __syncthreads();
    if (threadIdx.x < 128) {
        ptx::set_max_registers_down<40>();
        if (threadIdx.x == 0) produce<kMnMajor, kCluster>(shared, full, empty, &map_a, &map_b, m0, n0, steps);
    } else {
        ptx::set_max_registers_up<232>();
        const int part = int(threadIdx.x) / 128 - 1, lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) % 128 / 32;
        float sums[64];
        for (float& sum : sums) sum = 0;
        consume<kMnMajor, kCluster, kARegisters>(sums, shared, full, empty, part, steps);
        if constexpr (kStore) {
            store_tile(sums, shared, &map_c, part, m0 + part * 64, n0);
        } else {
#pragma unroll
            for (int i = 0; i < 64; ++i) {
                const int row = m0 + part * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8;
                const int column = n0 + i / 4 * 8 + lane % 4 * 2 + i % 2;
                if (row < M && column < N) c[size_t(row) * N + column] = sums[i];
            }
        }
    }
    if constexpr (kCluster > 1) ptx::cluster_sync();  // nobody leaves while others may still write here
#endif
}

}  // namespace llmcore
