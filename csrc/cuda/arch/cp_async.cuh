// cp.async: asynchronous copies of 4, 8 or 16 bytes from global to shared memory, waited for in groups of one thread.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/cp_async.h"
#endif

namespace llmcore::ptx {

// Both ends are aligned to kBytes. Of the source only source_bytes are read, the rest is zero: 0 for what lies outside
// a tensor (any aligned pointer will do then).
template <int kBytes>
LLMCORE_DEVICE void cp_async(uint32_t destination, const void* source, int source_bytes LLMCORE_AND_WHERE) {
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
#if LLMCORE_EMULATE
    emu::cp_async(destination, source, kBytes, source_bytes, where);
#else
    if constexpr (kBytes == 16)  // past L1: nobody else will read these lines from it
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(source_bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source), "n"(kBytes),
                     "r"(source_bytes)
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

}  // namespace llmcore::ptx
