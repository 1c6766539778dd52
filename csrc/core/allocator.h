// The caching allocator: freed blocks are kept by size class and handed out again, so that a training step faults no
// page twice (page faults are a quarter of PyTorch's CPU step at small batches).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/runtime.h"

namespace llmcore {

struct MemoryStats {
    size_t allocated = 0;       // bytes in live blocks, rounded up to size classes
    size_t reserved = 0;        // bytes held from the system, live and cached
    size_t peak_allocated = 0;  // the largest `allocated` since the last reset
    size_t limit = 0;           // 0: none
    uint64_t allocations = 0;   // requests served since the start
};

// A block of memory on `device`, 64-byte aligned, contents undefined. Freed (into the cache) with its last owner.
// Throws OutOfMemory, naming the request and what is held.
std::shared_ptr<void> allocate(size_t bytes, Device device);

MemoryStats memory_stats(Device device);
void reset_peak_memory(Device device);
void empty_cache(Device device);                     // gives cached blocks back to the system
void set_memory_limit(size_t bytes, Device device);  // allocate() beyond it throws; 0 removes the limit

}  // namespace llmcore
