// Global memory beyond plain loads and stores: atomics, acquire and release, cache hints. Blocks order their accesses
// with these; global_race.h is told of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emu/error.h"

namespace llmcore::emu {

// Address aligned to its size, or Error("align").
void check_vector(const void* address, size_t bytes, Location where);
// A load through the read-only path: nobody may have written here in this launch (seen by the race build).
void check_read_only(const void* address, size_t bytes, Location where);

uint64_t cache_policy(int evict);  // 0 normal, 1 first, 2 last
void check_cache_policy(uint64_t policy, Location where);

// Lets the others run first, so that a loop around it comes to an end; when nothing but such loops is left, it is a
// deadlock.
uint32_t load_acquire(const uint32_t* address, Location where);
void store_release(uint32_t* address, uint32_t value, Location where);
uint32_t add_acquire_release(uint32_t* address, uint32_t value, bool acquire, Location where);
void add_relaxed(float* address, float value, Location where);

// Before a relaxed atomic of the CUDA language (atomicAdd and its like), on global or shared memory; and __threadfence,
// which makes the relaxed atomics after it release and those before it acquire.
void atomic_access(const void* address, size_t bytes, Location where);
void thread_fence();

}  // namespace llmcore::emu
