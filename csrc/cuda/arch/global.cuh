// Loads and stores of global memory beyond the language's own: vectors with cache hints, and the acquire and release
// accesses by which blocks order themselves (turnstiles, counters, flags).
#pragma once

#include "cuda/arch/target.cuh"
#if LLMCORE_EMULATE
#include "emu/global_memory.h"
#endif

namespace llmcore::ptx {

struct alignas(16) Words {
    uint32_t word[4];
};

// kNormal: through every cache. kStreaming: read or written once, the first to be evicted. kNoAllocate: loads only,
// past L1 and through the read-only path: nobody may write the address while the kernel runs.
enum class Cache { kNormal, kStreaming, kNoAllocate };

template <Cache kCache = Cache::kNormal>
LLMCORE_DEVICE Words load_words(const void* source LLMCORE_AND_WHERE) {
    Words w;
#if LLMCORE_EMULATE
    emu::check_vector(source, 16, where);
    if constexpr (kCache == Cache::kNoAllocate) emu::check_read_only(source, 16, where);
    w = *static_cast<const Words*>(source);
#else
    if constexpr (kCache == Cache::kNoAllocate)
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                     : "l"(source)
                     : "memory");
    else if constexpr (kCache == Cache::kStreaming)
        asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                     : "l"(source)
                     : "memory");
    else
        asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                     : "l"(source)
                     : "memory");
#endif
    return w;
}

template <Cache kCache = Cache::kNormal>
LLMCORE_DEVICE void store_words(void* destination, const Words& w LLMCORE_AND_WHERE) {
    static_assert(kCache != Cache::kNoAllocate, "stores are kNormal or kStreaming");
#if LLMCORE_EMULATE
    emu::check_vector(destination, 16, where);
    *static_cast<Words*>(destination) = w;
#else
    if constexpr (kCache == Cache::kStreaming)
        asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(destination), "r"(w.word[0]), "r"(w.word[1]),
                     "r"(w.word[2]), "r"(w.word[3])
                     : "memory");
    else
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(destination), "r"(w.word[0]), "r"(w.word[1]),
                     "r"(w.word[2]), "r"(w.word[3])
                     : "memory");
#endif
}

// What other blocks did before their release of this address is visible after the load that sees it. A loop that waits
// for a value must read it with this: in the emulator it lets the others run.
LLMCORE_DEVICE uint32_t load_acquire(const uint32_t* address LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    return emu::load_acquire(address, where);
#else
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
#endif
}

LLMCORE_DEVICE void store_release(uint32_t* address, uint32_t value LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::store_release(address, value, where);
#else
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
#endif
}

LLMCORE_DEVICE void add_release(uint32_t* address, uint32_t value LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::add_acquire_release(address, value, false, where);
#else
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
#endif
}

// Gives what the address held: the block that draws the last number sees what all others did before they drew theirs.
LLMCORE_DEVICE uint32_t add_acquire_release(uint32_t* address, uint32_t value LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    return emu::add_acquire_release(address, value, true, where);
#else
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(address), "r"(value) : "memory");
    return old;
#endif
}

// Adds without ordering anything: sums whose order is left to chance.
LLMCORE_DEVICE void add_relaxed(float* address, float value LLMCORE_AND_WHERE) {
#if LLMCORE_EMULATE
    emu::add_relaxed(address, value, where);
#else
    asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(address), "f"(value) : "memory");
#endif
}

}  // namespace llmcore::ptx
