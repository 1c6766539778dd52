// The CPU's memory: freed blocks are kept by size class. See core/allocator.h.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/check.h"

namespace llmcore {

class HostAllocator {
  public:
    std::shared_ptr<void> allocate(size_t bytes);
    MemoryStats stats();
    void reset_peak();
    void set_limit(size_t bytes);
    void empty_cache();

    // For fork(): nobody is inside while they are held.
    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

    // How a block finds its way back; shared_ptr keeps it, and label() finds it there.
    struct GiveBack {
        HostAllocator* allocator;
        size_t size, capacity;  // what is accounted for, and what the block has
        std::string label;
        void operator()(void* block) const { allocator->give_back(block, *this); }
    };
    void label(GiveBack& block, const std::string& label);

  private:
    struct Block {
        void* data;
        size_t capacity;  // may be more than what was asked for
    };

    Block take(size_t size, size_t requested);
    Block from_cache(size_t size, size_t in_use);
    void give_back(void* data, const GiveBack& block);
    void release_cached(size_t keep);
    OutOfMemory out_of_memory(size_t requested, const char* what) const;

    std::mutex mutex_;
    std::map<size_t, std::vector<void*>> cache_;
    size_t high_water_ = 0;  // most bytes that were ever in use at once
    MemoryStats stats_;
};

}  // namespace llmcore
