#include "core/allocator.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/cuda_device.h"

namespace llmcore {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// Powers of two up to 1 MiB, then steps of an eighth of the power of two below: at most 12.5 % is wasted.
size_t size_class(size_t bytes) {
    size_t power = kAlignment;
    while (power < bytes) power <<= 1;
    if (power <= (size_t{1} << 20)) return power;
    size_t step = power / 16;
    return (bytes + step - 1) / step * step;
}

// Huge pages where they fit: a first touch runs at 19 GB/s instead of 3 (MADV_HUGEPAGE; most systems are set to
// `madvise`).
void* host_memory(size_t size) {
    void* block = std::aligned_alloc(size >= kHugePage ? kHugePage : kAlignment,
                                     size >= kHugePage ? (size + kHugePage - 1) / kHugePage * kHugePage : size);
#if defined(MADV_HUGEPAGE)
    if (block != nullptr && size >= kHugePage) madvise(block, size, MADV_HUGEPAGE);
#endif
    return block;
}

// One device's memory. A block that is freed while kernels still use it may be handed out again at once, on a GPU too:
// all work of a device runs on one stream, in the order of the calls.
class CachingAllocator {
  public:
    explicit CachingAllocator(Device device) : device_(device) {}

    std::shared_ptr<void> allocate(size_t bytes) {
        size_t size = caches() ? size_class(bytes) : bytes > 0 ? bytes : 1;
        Block block = take(size, bytes);
        return std::shared_ptr<void>(
            block.data, [this, size, capacity = block.capacity](void* p) { give_back(p, size, capacity); });
    }

    MemoryStats stats() {
        std::lock_guard lock(mutex_);
        return stats_;
    }

    void reset_peak() {
        std::lock_guard lock(mutex_);
        stats_.peak_allocated = stats_.allocated;
    }

    void set_limit(size_t bytes) {
        std::lock_guard lock(mutex_);
        stats_.limit = bytes;
    }

    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

    void empty_cache() {
        std::lock_guard lock(mutex_);
        release_cached(0);
    }

  private:
    // On the emulated device every tensor is an allocation of its own size, so that AddressSanitizer sees each end.
    bool caches() const { return device_.type == DeviceType::kCpu || std::string_view(cuda_build()) != "emulate"; }

    struct Block {
        void* data;
        size_t capacity;  // may be more than what was asked for
    };

    Block take(size_t size, size_t requested) {
        std::lock_guard lock(mutex_);
        if (stats_.limit != 0 && stats_.allocated + size > stats_.limit)
            throw out_of_memory(requested, "the memory limit");
        size_t in_use = stats_.allocated + size;
        Block block = from_cache(size, in_use);
        if (block.data == nullptr) {
            block = {from_system(size), size};
            if (block.data == nullptr) {
                release_cached(0);
                block.data = from_system(size);
            }
            if (block.data == nullptr)
                throw out_of_memory(
                    requested, device_.type == DeviceType::kCpu ? "this machine's memory" : "this device's memory");
            stats_.reserved += size;
        }
        stats_.allocated = in_use;
        high_water_ = std::max(high_water_, in_use);
        stats_.allocations += 1;
        if (stats_.allocated > stats_.peak_allocated) stats_.peak_allocated = stats_.allocated;
        return block;
    }

    // A free block of this size, else nothing. Once more is held than a quarter above what was ever in use together, as
    // with batches of varying length, a block of up to half as much again will do, and the largest free ones are given
    // up to make room for a new one.
    Block from_cache(size_t size, size_t in_use) {
        auto found = cache_.find(size);
        if (found == cache_.end() || found->second.empty()) {
            size_t most = std::max(high_water_, in_use), bound = most + most / 4;
            if (!caches() || stats_.reserved + size <= bound) return {nullptr, 0};
            found = cache_.upper_bound(size);
            while (found != cache_.end() && found->second.empty()) ++found;
            if (found == cache_.end() || found->first > size + size / 2) {
                release_cached(bound > size ? bound - size : 0);
                return {nullptr, 0};
            }
        }
        void* data = found->second.back();
        found->second.pop_back();
        return {data, found->first};
    }

    void give_back(void* block, size_t size, size_t capacity) {
        std::lock_guard lock(mutex_);
        stats_.allocated -= size;
        if (caches()) {
            cache_[capacity].push_back(block);
        } else {
            to_system(block);
            stats_.reserved -= capacity;
        }
    }

    void* from_system(size_t size) {
        if constexpr (kWithCuda)
            if (device_.type == DeviceType::kCuda) return cuda::allocate(size, device_.index);
        return host_memory(size);
    }

    void to_system(void* block) {
        if constexpr (kWithCuda)
            if (device_.type == DeviceType::kCuda) return cuda::release(block, device_.index);
        std::free(block);
    }

    // Gives free blocks back, the largest first, until no more than `keep` bytes are held.
    void release_cached(size_t keep) {
        for (auto group = cache_.rbegin(); group != cache_.rend(); ++group) {
            auto& [size, blocks] = *group;
            while (!blocks.empty() && stats_.reserved > keep) {
                to_system(blocks.back());
                blocks.pop_back();
                stats_.reserved -= size;
            }
        }
    }

    OutOfMemory out_of_memory(size_t requested, const char* what) const {
        return OutOfMemory(
            concat("out of memory on ", name_of(device_), ": a request of ", requested, " bytes does not fit into ",
                   what, " (", stats_.allocated, " bytes in use, ", stats_.reserved, " reserved",
                   stats_.limit ? concat(", limit ", stats_.limit) : "",
                   "); a smaller batch, a shorter block_size or activation_checkpointing=True needs less"));
    }

    const Device device_;
    std::mutex mutex_;
    std::map<size_t, std::vector<void*>> cache_;
    size_t high_water_ = 0;  // most bytes that were ever in use at once
    MemoryStats stats_;
};

// The allocators are never destroyed: tensors may outlive every static object when the interpreter shuts down. fork()
// waits until no thread is inside: the child would inherit a lock whose owner it does not have.
class Allocators {
  public:
    CachingAllocator& of(Device device) {
        std::lock_guard lock(mutex_);
        size_t slot = device.type == DeviceType::kCpu ? 0 : static_cast<size_t>(device.index) + 1;
        if (slot >= all_.size()) all_.resize(slot + 1);
        if (all_[slot] == nullptr) all_[slot] = new CachingAllocator(device);
        return *all_[slot];
    }

    void lock() {
        mutex_.lock();
        for (CachingAllocator* allocator : all_)
            if (allocator != nullptr) allocator->lock();
    }
    void unlock() {
        for (CachingAllocator* allocator : all_)
            if (allocator != nullptr) allocator->unlock();
        mutex_.unlock();
    }

  private:
    std::mutex mutex_;
    std::vector<CachingAllocator*> all_;
};

CachingAllocator& allocator_of(Device device) {
    static Allocators* allocators = [] {
        static auto* created = new Allocators;
        pthread_atfork([] { created->lock(); }, [] { created->unlock(); }, [] { created->unlock(); });
        return created;
    }();
    return allocators->of(device);
}

}  // namespace

std::shared_ptr<void> allocate(size_t bytes, Device device) {
    return allocator_of(device).allocate(bytes);
}
MemoryStats memory_stats(Device device) {
    return allocator_of(device).stats();
}
void reset_peak_memory(Device device) {
    allocator_of(device).reset_peak();
}
void empty_cache(Device device) {
    allocator_of(device).empty_cache();
}
void set_memory_limit(size_t bytes, Device device) {
    allocator_of(device).set_limit(bytes);
}

}  // namespace llmcore
