#include "core/allocator.h"

#include <pthread.h>

#include <mutex>
#include <vector>

#include "core/device_allocator.h"
#include "core/host_allocator.h"

namespace llmcore {
namespace {

// The allocators are never destroyed: tensors may outlive every static object when the interpreter shuts down. fork()
// waits until no thread is inside: the child would inherit a lock whose owner it does not have.
class Allocators {
  public:
    HostAllocator& host() { return host_; }

    DeviceAllocator& of(Device device) {
        std::lock_guard lock(mutex_);
        const size_t slot = static_cast<size_t>(device.index);
        if (slot >= devices_.size()) devices_.resize(slot + 1);
        if (devices_[slot] == nullptr) devices_[slot] = new DeviceAllocator(device);
        return *devices_[slot];
    }

    void lock() {
        mutex_.lock();
        host_.lock();
        for (DeviceAllocator* allocator : devices_)
            if (allocator != nullptr) allocator->lock();
    }
    void unlock() {
        for (DeviceAllocator* allocator : devices_)
            if (allocator != nullptr) allocator->unlock();
        host_.unlock();
        mutex_.unlock();
    }

  private:
    std::mutex mutex_;
    HostAllocator host_;
    std::vector<DeviceAllocator*> devices_;
};

Allocators& allocators() {
    static Allocators* all = [] {
        static auto* created = new Allocators;
        pthread_atfork([] { created->lock(); }, [] { created->unlock(); }, [] { created->unlock(); });
        return created;
    }();
    return *all;
}

// Calls f with the allocator of the device: both kinds have the same functions.
template <class F>
auto with_allocator(Device device, F&& f) {
    return device.type == DeviceType::kCpu ? f(allocators().host()) : f(allocators().of(device));
}

}  // namespace

std::shared_ptr<void> allocate(size_t bytes, Device device) {
    return with_allocator(device, [&](auto& allocator) { return allocator.allocate(bytes); });
}
MemoryStats memory_stats(Device device) {
    return with_allocator(device, [](auto& allocator) { return allocator.stats(); });
}
void reset_peak_memory(Device device) {
    with_allocator(device, [](auto& allocator) { allocator.reset_peak(); });
}
void empty_cache(Device device) {
    with_allocator(device, [](auto& allocator) { allocator.empty_cache(); });
}
void set_memory_limit(size_t bytes, Device device) {
    with_allocator(device, [&](auto& allocator) { allocator.set_limit(bytes); });
}

void label_memory(const std::shared_ptr<void>& block, const std::string& label) {
    if (auto* host = std::get_deleter<HostAllocator::GiveBack>(block))
        host->allocator->label(*host, label);
    else if (auto* device = std::get_deleter<DeviceAllocator::GiveBack>(block))
        device->allocator->label(device->block, label);
}

std::shared_ptr<GraphMemory> make_graph_memory(Device device) {
    return allocators().of(device).make_graph_memory();
}
void begin_graph_memory(const std::shared_ptr<GraphMemory>& memory, Device device) {
    allocators().of(device).begin_graph_memory(memory);
}
void end_graph_memory(Device device) {
    allocators().of(device).end_graph_memory();
}

}  // namespace llmcore
