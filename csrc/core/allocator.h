// Memory for tensors. Freed blocks are kept and handed out again: on the CPU by size class, so that a training step
// faults no page twice (page faults are a quarter of PyTorch's CPU step at small batches), on a GPU by best fit,
// because asking the driver takes longer than most kernels and giving memory back waits for all of them.
//
// A block that is freed while kernels still use it may be handed out again at once, on a GPU too: all work of a device
// runs on one stream, in the order of the calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/runtime.h"

namespace llmcore {

struct MemoryStats {
    size_t allocated = 0;                    // bytes in live blocks, rounded up to what blocks come in
    size_t reserved = 0;                     // bytes held from the system: live, cached, and those of graphs
    size_t graphs = 0;                       // bytes among `reserved` that belong to captured graphs
    size_t peak_allocated = 0;               // the largest `allocated` since the last reset
    size_t limit = 0;                        // 0: none
    uint64_t allocations = 0;                // requests served since the start
    std::map<std::string, size_t> by_label;  // live bytes of each label (label_memory); the rest has none
};

// A block of memory on `device`, contents undefined; aligned to 64 bytes on the CPU and to 256 on a GPU. Freed (into
// the cache) with its last owner. Throws OutOfMemory, naming the request and what is held by whom.
std::shared_ptr<void> allocate(size_t bytes, Device device);

// Says what a block is for ("weights", "gradients"), in statistics and where memory runs out. Memory that did not come
// from allocate() is left alone.
void label_memory(const std::shared_ptr<void>& block, const std::string& label);

MemoryStats memory_stats(Device device);
void reset_peak_memory(Device device);
void empty_cache(Device device);  // gives cached blocks back to the system

// Of the CPU it bounds the bytes in live blocks, of a GPU the bytes reserved. allocate() beyond it throws; 0 removes
// it.
void set_memory_limit(size_t bytes, Device device);

// The memory of captured graphs (core/graph.h). What a thread allocates on the device between begin_ and end_ comes
// from this pool, and everything that was allocated or freed in between keeps its address until the last owner of the
// pool is gone; live tensors then stay valid, and what is free joins the device's cache.
class GraphMemory;
std::shared_ptr<GraphMemory> make_graph_memory(Device device);
void begin_graph_memory(const std::shared_ptr<GraphMemory>& memory, Device device);
void end_graph_memory(Device device);

}  // namespace llmcore
