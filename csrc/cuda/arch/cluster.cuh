// Clusters of blocks (sm_90): rank, barrier, and each other's shared memory.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/cluster_memory.h"
#include "emu/tma.h"
#endif

#if LLMCORE_HAS_SM90A

namespace llmcore::ptx {

LLMCORE_DEVICE uint32_t cluster_rank() {
#if LLMCORE_EMULATE
    return emu::cluster_rank();
#else
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#endif
}

LLMCORE_DEVICE uint32_t cluster_size() {
#if LLMCORE_EMULATE
    return emu::cluster_size();
#else
    uint32_t size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
#endif
}

LLMCORE_DEVICE void cluster_arrive(LLMCORE_WHERE) {
#if LLMCORE_EMULATE
    emu::cluster_arrive(where);
#else
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

LLMCORE_DEVICE void cluster_wait(LLMCORE_WHERE) {
#if LLMCORE_EMULATE
    emu::cluster_wait(where);
#else
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

LLMCORE_DEVICE void cluster_sync(LLMCORE_WHERE) {
#if LLMCORE_EMULATE
    emu::cluster_arrive(where);
    emu::cluster_wait(where);
#else
    cluster_arrive();
    cluster_wait();
#endif
}

// The address by which this block reaches the same place in the shared memory of block `rank` of its cluster.
LLMCORE_DEVICE uint32_t map_to_rank(uint32_t address, uint32_t rank LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    return emu::map_to_rank(address, rank, where);
#else
    uint32_t mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
#endif
}

// Another block's shared memory, by addresses from map_to_rank: 4 or 16 bytes, aligned to their size. A cluster_sync
// comes before the first access, so that the block is there, and one after the last, so that it stays.
LLMCORE_DEVICE float load_cluster(uint32_t address LLMCORE_AND_WHERE) {
    float value;
#if LLMCORE_EMULATE
    emu::load_cluster(address, &value, sizeof value, where);
#else
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
#endif
    return value;
}

LLMCORE_DEVICE float4 load_cluster4(uint32_t address LLMCORE_AND_WHERE) {
    float4 value;
#if LLMCORE_EMULATE
    emu::load_cluster(address, &value, sizeof value, where);
#else
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "r"(address)
                 : "memory");
#endif
    return value;
}

LLMCORE_DEVICE void store_cluster(uint32_t address, float value LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::store_cluster(address, &value, sizeof value, where);
#else
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
#endif
}

LLMCORE_DEVICE void store_cluster4(uint32_t address, float4 value LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::store_cluster(address, &value, sizeof value, where);
#else
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x), "f"(value.y),
                 "f"(value.z), "f"(value.w)
                 : "memory");
#endif
}

// Stores asynchronously and completes 4 bytes on `barrier`; both are addresses of one block, from map_to_rank.
LLMCORE_DEVICE void store_async_cluster(uint32_t address, float value, uint32_t barrier LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::store_async_cluster(address, &value, sizeof value, barrier, where);
#else
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(address), "f"(value),
                 "r"(barrier)
                 : "memory");
#endif
}

}  // namespace llmcore::ptx

#endif
