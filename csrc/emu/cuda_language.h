// The CUDA language spelled for the host compiler: the names that kernels use without including anything.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "emu/barrier.h"
#include "emu/cuda_types.h"
#include "emu/error.h"
#include "emu/global_memory.h"
#include "emu/warp.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __shared__ static_assert(false, "declare shared memory with LLMCORE_SHARED or shared_memory<T>()");
#define LLMCORE_HERE ::llmcore::emu::Location where = ::llmcore::emu::Location::here()

// Real variables, which the scheduler rewrites at each switch: as macros they would break members of these names.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

inline void __syncthreads(LLMCORE_HERE) {
    llmcore::emu::bar_sync(0, 0, where);
}

inline void __syncwarp(uint32_t mask = ~0u, LLMCORE_HERE) {
    llmcore::emu::sync_warp(mask, where);
}

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, LLMCORE_HERE) {
    int lane = int(llmcore::emu::current_lane());
    return llmcore::emu::shuffle(mask, value, unsigned((lane & ~(width - 1)) | (source & (width - 1))), where);
}

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, LLMCORE_HERE) {
    int lane = int(llmcore::emu::current_lane()), source = lane ^ bits;
    bool inside = (source & ~(width - 1)) <= (lane & ~(width - 1));
    return llmcore::emu::shuffle(mask, value, unsigned(inside ? source : lane), where);
}

template <class T>
T __shfl_down_sync(uint32_t mask, T value, int delta, int width = 32, LLMCORE_HERE) {
    int lane = int(llmcore::emu::current_lane());
    bool inside = (lane & (width - 1)) + delta < width;
    return llmcore::emu::shuffle(mask, value, unsigned(inside ? lane + delta : lane), where);
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, int delta, int width = 32, LLMCORE_HERE) {
    int lane = int(llmcore::emu::current_lane());
    bool inside = (lane & (width - 1)) >= delta;
    return llmcore::emu::shuffle(mask, value, unsigned(inside ? lane - delta : lane), where);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, LLMCORE_HERE) {
    return llmcore::emu::ballot(mask, predicate != 0, where);
}

inline int __any_sync(uint32_t mask, int predicate, LLMCORE_HERE) {
    return llmcore::emu::ballot(mask, predicate != 0, where) != 0;
}

inline int __all_sync(uint32_t mask, int predicate, LLMCORE_HERE) {
    return llmcore::emu::ballot(mask, predicate == 0, where) == 0;
}

// One operating system thread runs everything: a plain read-modify-write is atomic. Compiled without instrumentation;
// the race detector is told that it is an atomic.
#define LLMCORE_ATOMIC \
    template <class T> \
    __attribute__((no_sanitize("thread"), noinline)) T
LLMCORE_ATOMIC atomicAdd(T* address, T value, LLMCORE_HERE) {
    llmcore::emu::atomic_access(address, sizeof(T), where);
    T old = *address;
    *address = old + value;
    return old;
}

LLMCORE_ATOMIC atomicMax(T* address, T value, LLMCORE_HERE) {
    llmcore::emu::atomic_access(address, sizeof(T), where);
    T old = *address;
    if (value > old) *address = value;
    return old;
}

LLMCORE_ATOMIC atomicInc(T* address, T limit, LLMCORE_HERE) {
    llmcore::emu::atomic_access(address, sizeof(T), where);
    T old = *address;
    *address = old >= limit ? 0 : old + 1;
    return old;
}

LLMCORE_ATOMIC atomicExch(T* address, T value, LLMCORE_HERE) {
    llmcore::emu::atomic_access(address, sizeof(T), where);
    T old = *address;
    *address = value;
    return old;
}

LLMCORE_ATOMIC atomicCAS(T* address, T expected, T value, LLMCORE_HERE) {
    llmcore::emu::atomic_access(address, sizeof(T), where);
    T old = *address;
    if (old == expected) *address = value;
    return old;
}
#undef LLMCORE_ATOMIC

inline void __threadfence() {
    llmcore::emu::thread_fence();
}

template <class T>
T __ldg(const T* pointer) {
    return *pointer;
}

template <class T>
T __ldcs(const T* pointer) {
    return *pointer;
}

template <class T>
void __stcs(T* pointer, T value) {
    *pointer = value;
}

inline int __popc(uint32_t bits) {
    return __builtin_popcount(bits);
}

inline float rsqrtf(float x) {
    return 1.0f / std::sqrt(x);
}

inline float __expf(float x) {
    return std::exp(x);
}
