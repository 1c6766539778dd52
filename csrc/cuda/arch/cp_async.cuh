// cp.async: asynchronous copies of 4, 8 or 16 bytes from global to shared memory, waited for in groups of one thread.
#pragma once

#include "cuda/arch/cache_policy.cuh"
#if LLMCORE_EMULATE
#include "emu/cp_async.h"
#endif

namespace llmcore::ptx {

// Both ends are aligned to kBytes. Of the source only source_bytes are read, the rest is zero: 0 for what lies outside
// a tensor (any aligned pointer will do then).
// kThroughL1 for 16 bytes that other blocks of this SM read, too; smaller copies always go through it.
template <int kBytes, bool kThroughL1 = kBytes != 16>
LLMCORE_DEVICE void cp_async(uint32_t destination, const void* source, int source_bytes LLMCORE_AND_WHERE) {
    static_assert(kBytes == 16 || kThroughL1, "only copies of 16 bytes can go past L1");
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if LLMCORE_EMULATE
    emu::cp_async(destination, source, kBytes, source_bytes, where);
#else
    if constexpr (!kThroughL1)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(source_bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source), "n"(kBytes),
                     "r"(source_bytes)
                     : "memory");
#endif
}

// The same with a hint to L2.
LLMCORE_DEVICE void cp_async(uint32_t destination, const void* source, int source_bytes,
                             CachePolicy policy LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::check_cache_policy(policy.bits, where);
    emu::cp_async(destination, source, 16, source_bytes, where);
#else
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(destination), "l"(source),
                 "r"(source_bytes), "l"(policy.bits)
                 : "memory");
#endif
}

LLMCORE_DEVICE void cp_async_commit() {
#if LLMCORE_EMULATE
    emu::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most kGroupsLeft of this thread's groups are under way; other threads' data needs a barrier as well.
template <int kGroupsLeft>
LLMCORE_DEVICE void cp_async_wait() {
#if LLMCORE_EMULATE
    emu::cp_async_wait(kGroupsLeft);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// The same for all of this thread's copies, committed or not.
LLMCORE_DEVICE void cp_async_wait_all() {
#if LLMCORE_EMULATE
    emu::cp_async_wait_all();
#else
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

#if LLMCORE_HAS_SM90A
// One arrival on an mbarrier when all of this thread's copies so far have landed, as one of those that the barrier was
// initialised to expect. The thread itself goes on.
LLMCORE_DEVICE void cp_async_arrive(uint32_t barrier LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::cp_async_arrive(barrier, where);
#else
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}
#endif

}  // namespace llmcore::ptx
