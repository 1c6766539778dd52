// Clusters of blocks (sm_90): rank, barrier.
#pragma once

#include "cuda/arch/target.cuh"

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

}  // namespace llmcore::ptx

#endif
