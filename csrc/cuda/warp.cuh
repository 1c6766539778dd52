// Reductions over the lanes of a warp. Every lane gets the result, and all lanes the same bits: the butterfly adds each
// pair in both orders, and addition commutes.
#pragma once

#include "cuda/arch/target.cuh"

namespace llmcore {

constexpr uint32_t kAllLanes = 0xffffffffu;

LLMCORE_DEVICE float warp_sum(float value LLMCORE_AND_WHERE) {
#pragma unroll
    for (int bits = 16; bits; bits /= 2) value += __shfl_xor_sync(kAllLanes, value, bits, 32 LLMCORE_PASS_WHERE);
    return value;
}

LLMCORE_DEVICE float warp_max(float value LLMCORE_AND_WHERE) {
#pragma unroll
    for (int bits = 16; bits; bits /= 2)
        value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, bits, 32 LLMCORE_PASS_WHERE));
    return value;
}

}  // namespace llmcore
