// L2 cache hints (createpolicy, sm_80): how much a copy's lines matter to others. Hints change speed, never values.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/global_memory.h"
#endif

namespace llmcore::ptx {

enum class Evict { kNormal, kFirst, kLast };

// What instructions with a cache hint take; opaque.
struct CachePolicy {
    uint64_t bits;
};

template <Evict kWhen>
LLMCORE_DEVICE CachePolicy cache_policy() {
    CachePolicy policy;
#if LLMCORE_EMULATE
    policy.bits = emu::cache_policy(int(kWhen));
#else
    if constexpr (kWhen == Evict::kFirst)
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy.bits));
    else if constexpr (kWhen == Evict::kLast)
        asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy.bits));
    else
        asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy.bits));
#endif
    return policy;
}

}  // namespace llmcore::ptx
