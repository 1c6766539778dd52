// The memory of one GPU: a cache of blocks for all work, and pools for captured graphs. See core/allocator.h.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/allocator.h"
#include "core/block_pool.h"
#include "core/check.h"

namespace llmcore {

class DeviceAllocator;

// The memory of one or several graphs of a device: blocks that were handed out while they were captured, and blocks of
// the cache that were freed meanwhile, which recorded kernels may still name.
class GraphMemory {
  public:
    GraphMemory(DeviceAllocator& owner, BlockPool::Source source, bool caches);
    ~GraphMemory();

  private:
    friend class DeviceAllocator;
    DeviceAllocator& owner_;
    BlockPool blocks_;
    std::vector<BlockPool::Block*> held_;
};

class DeviceAllocator {
  public:
    explicit DeviceAllocator(Device device);

    std::shared_ptr<void> allocate(size_t bytes);
    MemoryStats stats();
    void reset_peak();
    void set_limit(size_t bytes);
    void empty_cache();

    std::shared_ptr<GraphMemory> make_graph_memory();
    void begin_graph_memory(std::shared_ptr<GraphMemory> memory);
    void end_graph_memory();
    void dissolve(GraphMemory& memory);

    // For fork(): nobody is inside while they are held.
    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

    // How a block finds its way back; shared_ptr keeps it, and label() finds it there.
    struct GiveBack {
        DeviceAllocator* allocator;
        BlockPool::Block* block;
        void operator()(void*) const { allocator->give_back(block); }
    };
    void label(BlockPool::Block* block, const std::string& label);

  private:
    BlockPool::Block* take(size_t bytes);
    void give_back(BlockPool::Block* block);
    char* obtain(size_t bytes);
    void release(char* segment, size_t bytes);
    BlockPool::Source source();
    OutOfMemory out_of_memory(size_t requested) const;
    std::map<std::string, size_t> live_by_label() const;
    std::string largest_blocks() const;
    void for_each_live(const std::function<void(const BlockPool::Block&)>& visit) const;
    void hold(BlockPool::Block* block);

    const Device device_;
    const bool caches_;
    std::mutex mutex_;
    BlockPool cache_;
    std::shared_ptr<GraphMemory> recording_;  // of the graph that is being captured
    std::thread::id recorder_;
    std::set<GraphMemory*> graph_memories_;
    size_t held_bytes_ = 0;                                   // freed, but kept for graphs
    std::vector<std::string> labels_{"", "kept for graphs"};  // Block::label is an index; the first means none
    MemoryStats stats_;
};

}  // namespace llmcore
