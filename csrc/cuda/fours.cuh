// Four adjacent elements of a row as floats, at once where they are all there and aligned: what tiles are read and
// written in, whose rows end anywhere.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "cuda/arch/target.cuh"

namespace llmcore {

template <class T>
struct alignas(4 * sizeof(T)) Four {
    T value[4];
};

// The first `count` of four elements: at once where `whole` says that they are all there and aligned.
template <class Out>
LLMCORE_DEVICE void add_four(float (&value)[4], const Out* from, int count, bool whole) {
    if (whole) {
        const Four<Out> four = *reinterpret_cast<const Four<Out>*>(from);
#pragma unroll
        for (int i = 0; i < 4; ++i) value[i] += to_float(four.value[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)  // a loop to `count` would put the values into local memory
            if (i < count) value[i] += to_float(from[i]);
    }
}

template <class Out>
LLMCORE_DEVICE void store_four(Out* to, const float (&value)[4], int count, bool whole) {
    if (whole) {
        Four<Out> four;
#pragma unroll
        for (int i = 0; i < 4; ++i) four.value[i] = from_float<Out>(value[i]);
        *reinterpret_cast<Four<Out>*>(to) = four;
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < count) to[i] = from_float<Out>(value[i]);
    }
}

// Two or four floats of shared memory in one access, which their address allows. A struct of floats would be one for
// nvcc; g++ takes it apart, and the emulator would count the bank conflicts of accesses that no GPU makes.
template <int kCount>
struct AtOnce {
#if LLMCORE_EMULATE
    typedef float Floats __attribute__((vector_size(4 * kCount)));
#else
    typedef float Floats[kCount];
#endif
    alignas(4 * kCount) Floats value;
};

template <int kCount>
LLMCORE_DEVICE void load_at_once(float (&value)[kCount], const float* from) {
    const AtOnce<kCount> floats = *reinterpret_cast<const AtOnce<kCount>*>(from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] = floats.value[i];
}

template <int kCount>
LLMCORE_DEVICE void store_at_once(float* to, const float (&value)[kCount]) {
    AtOnce<kCount> floats;
#pragma unroll
    for (int i = 0; i < kCount; ++i) floats.value[i] = value[i];
    *reinterpret_cast<AtOnce<kCount>*>(to) = floats;
}

// Whether four elements of type T may be taken at once from here.
template <class T>
bool on_four(const T* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % (4 * sizeof(T)) == 0;
}

}  // namespace llmcore
