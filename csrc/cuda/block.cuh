// Sums over the threads of a team: one or more warps of a block, all of them or the block cut into equal parts.
#pragma once

#include "cuda/shared.cuh"
#include "cuda/warp.cuh"

namespace llmcore {

// The sum of `value` over the kWarps warps of the calling thread's team, in every thread of it; the order follows from
// the number of warps alone. `partial` is the team's own. All threads of the block call it together, and two calls in a
// row take two arrays: the barrier of the second is what ends the reading of the first.
template <int kWarps>
LLMCORE_DEVICE float team_sum(float value, float (&partial)[kWarps] LLMCORE_AND_WHERE) {
    value = warp_sum(value LLMCORE_PASS_WHERE);
    if constexpr (kWarps == 1) {
        (void)partial;
        return value;
    } else {
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32 % kWarps] = value;
        __syncthreads();
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < kWarps; ++warp) sum += partial[warp];
        return sum;
    }
}

}  // namespace llmcore
