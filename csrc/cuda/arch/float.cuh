// Arithmetic on floats that has an instruction of its own, which the language does not reach.
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/float.h"
#endif

namespace llmcore::ptx {

// 2^x with a relative error below 2^-22. Subnormal numbers count as zero on either side; -infinity gives 0.
LLMCORE_DEVICE float exp2_approximate(float x) {
#if LLMCORE_EMULATE
    return emu::exp2_flushed(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// Two bf16 in one word, `low` first in memory: to nearest, ties to even; a NaN becomes the one of all ones.
LLMCORE_DEVICE uint32_t pack_bf16(float low, float high) {
#if LLMCORE_EMULATE
    return emu::bf16_of_float(low) | emu::bf16_of_float(high) << 16;
#else
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

}  // namespace llmcore::ptx
