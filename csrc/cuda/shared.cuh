// Shared memory, declared so that both toolchains see it. A bare __shared__ does not compile in the emulator.
//
//   LLMCORE_SHARED(float[2][kWarps], sums);          a static array of the block
//   float* row = shared_memory<float>();             the launch's dynamic bytes, aligned to 1024
#pragma once

#include "cuda/arch/target.cuh"

namespace llmcore {

template <class T>
using SharedArray = T;  // lets LLMCORE_SHARED take array types

#if LLMCORE_EMULATE
template <class T>
T& fixed_shared_array(const void* key, LLMCORE_HERE) {
    return *static_cast<T*>(emu::fixed_shared(key, sizeof(T), alignof(T), where));
}
#define LLMCORE_SHARED(type, name) \
    static char name##_key;        \
    ::llmcore::SharedArray<type>& name = ::llmcore::fixed_shared_array<::llmcore::SharedArray<type>>(&name##_key)
#else
#define LLMCORE_SHARED(type, name) __shared__::llmcore::SharedArray<type> name
#endif

template <class T>
LLMCORE_DEVICE T* shared_memory() {
#if LLMCORE_EMULATE
    return reinterpret_cast<T*>(emu::dynamic_shared());
#else
    extern __shared__ __align__(1024) unsigned char llmcore_dynamic_shared[];
    return reinterpret_cast<T*>(llmcore_dynamic_shared);
#endif
}

// The 32-bit address by which instructions know shared memory.
LLMCORE_DEVICE uint32_t shared_address(const void* pointer LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    return emu::shared_address(pointer, where);
#else
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

}  // namespace llmcore
