// Instructions that the lanes of a mask execute together: redux.sync (sm_80) and elect.sync (sm_90).
#pragma once

#include "cuda/arch/target.cuh"

namespace llmcore::ptx {

enum class Reduce { kAdd, kMin, kMax, kAnd, kOr, kXor };

#if LLMCORE_EMULATE
template <Reduce kOperation, class T>
LLMCORE_DEVICE T reduce_lanes(uint32_t mask, T value, LLMCORE_HERE) {
    static_assert(sizeof(T) == 4, "redux.sync reduces 32-bit integers");
    constexpr char kNames[] = {'+', '<', '>', '&', '|', '^'};
    constexpr bool kSigned = T(-1) < T(0);
    return T(emu::reduce_bits(mask, uint32_t(value), kNames[int(kOperation)], kSigned, where));
}
#else
#define LLMCORE_REDUX(OPERATION, NAME)             \
    if constexpr (kOperation == Reduce::OPERATION) \
        asm volatile("redux.sync." NAME " %0, %1, %2;" : "=r"(result) : "r"(value), "r"(mask));
template <Reduce kOperation, class T>
LLMCORE_DEVICE T reduce_lanes(uint32_t mask, T value) {
    static_assert(sizeof(T) == 4, "redux.sync reduces 32-bit integers");
    T result{};
    if constexpr (T(-1) < T(0)) {
        LLMCORE_REDUX(kMin, "min.s32")
        LLMCORE_REDUX(kMax, "max.s32")
    } else {
        LLMCORE_REDUX(kMin, "min.u32")
        LLMCORE_REDUX(kMax, "max.u32")
    }
    LLMCORE_REDUX(kAdd, "add.s32")
    LLMCORE_REDUX(kAnd, "and.b32")
    LLMCORE_REDUX(kOr, "or.b32")
    LLMCORE_REDUX(kXor, "xor.b32")
    return result;
}
#undef LLMCORE_REDUX
#endif

#if LLMCORE_HAS_SM90A
// True in one lane of the mask, always the same one for the same mask. Which one is not said: the emulator's policy
// moves it, so that code which takes it for lane 0 is noticed.
LLMCORE_DEVICE bool elect_one(uint32_t mask = 0xffffffffu LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    return emu::elect_one(mask, where);
#else
    uint32_t elected;
    asm volatile("{ .reg .pred p; elect.sync _|p, %1; selp.u32 %0, 1, 0, p; }" : "=r"(elected) : "r"(mask));
    return elected;
#endif
}
#endif

}  // namespace llmcore::ptx
