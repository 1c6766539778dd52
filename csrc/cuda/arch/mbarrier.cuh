// mbarrier (sm_90): a phase completes when all its arrivals and all its expected bytes have come. Waiting for parity P
// returns when the phase of parity P has completed; a fresh barrier is in phase 0, so waiting for 1 returns at once.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/mbarrier.h"
#include "emu/race.h"
#endif

#if LLMCORE_HAS_SM90A

namespace llmcore::ptx {

// By one thread; then fence_mbarrier_init() and a barrier of the block or cluster, before anybody uses it.
LLMCORE_DEVICE void mbarrier_init(uint32_t barrier, uint32_t count LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mbarrier_init(barrier, count, where);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
#endif
}

// By the thread that initialised them, before copies or other blocks of the cluster use its barriers.
LLMCORE_DEVICE void fence_mbarrier_init() {
#if LLMCORE_EMULATE
    emu::fence_mbarrier_init();
#else
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Frees the barrier's eight bytes for other uses.
LLMCORE_DEVICE void mbarrier_invalidate(uint32_t barrier LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mbarrier_invalidate(barrier, where);
#else
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

LLMCORE_DEVICE void mbarrier_arrive(uint32_t barrier LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mbarrier_arrive(barrier, 1, 0, where);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

// One arrival that also announces bytes, which asynchronous copies will complete.
LLMCORE_DEVICE void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mbarrier_arrive(barrier, 1, bytes, where);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}

// Announces bytes without arriving.
LLMCORE_DEVICE void mbarrier_expect(uint32_t barrier, uint32_t bytes LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mbarrier_expect(barrier, bytes, where);
#else
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}

// Who sees what a thread stored before it arrived.
enum class Scope { kBlock, kCluster };

// An arrival on the barrier at the same address in another block of the cluster. kBlock is enough, and cheaper, where
// nothing is handed over but the leave to write: the other block's TMA will overwrite what wgmma has read.
template <Scope kScope = Scope::kCluster>
LLMCORE_DEVICE void mbarrier_arrive_at(uint32_t barrier, uint32_t rank LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::mbarrier_arrive(emu::map_to_rank(barrier, rank, where), 1, 0, where);
#else
    if constexpr (kScope == Scope::kBlock) {
        asm volatile(
            "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1; "
            "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(barrier),
            "r"(rank)
            : "memory");
        return;
    }
    asm volatile(
        "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1; "
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote]; }" ::"r"(barrier),
        "r"(rank)
        : "memory");
#endif
}

// May give up with false before the phase has completed.
LLMCORE_DEVICE bool mbarrier_try_wait(uint32_t barrier, uint32_t parity LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    return emu::mbarrier_try_wait(barrier, parity, where);
#else
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done;
#endif
}

LLMCORE_DEVICE void mbarrier_wait(uint32_t barrier, uint32_t parity LLMCORE_AND_WHERE) {
    while (!ptx::mbarrier_try_wait(barrier, parity LLMCORE_PASS_WHERE)) {
    }
}

// Before asynchronous engines (TMA stores, wgmma) read shared memory that this thread has written with ordinary stores.
LLMCORE_DEVICE void fence_proxy_async() {
#if LLMCORE_EMULATE
    emu::fence_proxy_async();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace llmcore::ptx

#endif
