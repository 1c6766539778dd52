// Named barriers of a block (ids 0 to 15; 0 is __syncthreads): bar.sync waits, bar.arrive only counts. Ids should be
// literals: with a computed one ptxas reserves all sixteen.
#pragma once

#include "cuda/arch/target.cuh"

namespace llmcore::ptx {

// threads: all that take part, a multiple of 32.
LLMCORE_DEVICE void bar_sync(int id, int threads LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::bar_sync(id, unsigned(threads), where);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

LLMCORE_DEVICE void bar_arrive(int id, int threads LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::bar_arrive(id, unsigned(threads), where);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

}  // namespace llmcore::ptx
