#include "core/device_allocator.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "core/cuda_device.h"
#include "core/memory_text.h"

namespace llmcore {
namespace {

constexpr size_t kKeptForGraphs = 1;  // in labels_

// LLMCORE_MEMORY_CACHE=0 makes every tensor an allocation of its own, for compute-sanitizer; the emulated device begins
// that way, for AddressSanitizer.
bool shall_cache() {
    const char* wish = std::getenv("LLMCORE_MEMORY_CACHE");
    if (wish == nullptr || *wish == '\0') return std::string_view(cuda_build()) != "emulate";
    LLMCORE_CHECK(std::string_view(wish) == "0" || std::string_view(wish) == "1",
                  "LLMCORE_MEMORY_CACHE must be 0 or 1, got ", wish);
    return *wish == '1';
}

}  // namespace

GraphMemory::GraphMemory(DeviceAllocator& owner, BlockPool::Source source, bool caches)
    : owner_(owner), blocks_(std::move(source), caches) {}

GraphMemory::~GraphMemory() {
    owner_.dissolve(*this);
}

DeviceAllocator::DeviceAllocator(Device device) : device_(device), caches_(shall_cache()), cache_(source(), caches_) {}

BlockPool::Source DeviceAllocator::source() {
    return {[this](size_t bytes) { return obtain(bytes); },
            [this](char* segment, size_t bytes) { release(segment, bytes); }};
}

char* DeviceAllocator::obtain(size_t bytes) {
    if (stats_.limit != 0 && stats_.reserved + bytes > stats_.limit) return nullptr;
    void* segment = nullptr;
    if constexpr (kWithCuda) segment = cuda::allocate(bytes, device_.index);
    if (segment != nullptr) stats_.reserved += bytes;
    return static_cast<char*>(segment);
}

void DeviceAllocator::release(char* segment, size_t bytes) {
    if constexpr (kWithCuda) cuda::release(segment, device_.index);
    stats_.reserved -= bytes;
}

std::shared_ptr<void> DeviceAllocator::allocate(size_t bytes) {
    BlockPool::Block* block = take(bytes);
    return std::shared_ptr<void>(block->data, GiveBack{this, block});
}

BlockPool::Block* DeviceAllocator::take(size_t bytes) {
    std::lock_guard lock(mutex_);
    const bool records = recording_ != nullptr && recorder_ == std::this_thread::get_id();
    BlockPool& pool = records ? recording_->blocks_ : cache_;
    BlockPool::Block* block = pool.take(bytes);
    if (block == nullptr && recording_ == nullptr) {
        cache_.release_free_segments();
        block = pool.take(bytes);
    }
    if (block == nullptr) throw out_of_memory(bytes);
    stats_.allocated += block->bytes;
    stats_.allocations += 1;
    stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
    return block;
}

void DeviceAllocator::give_back(BlockPool::Block* block) {
    std::lock_guard lock(mutex_);
    stats_.allocated -= block->bytes;
    if (block->pool == &cache_ && recording_ != nullptr) {
        hold(block);
        return;
    }
    block->pool->give_back(block);
    if (!caches_ && block->pool == &cache_) cache_.release(block);
}

// The graph that is being captured may name this block, so it is kept until the graph is gone.
void DeviceAllocator::hold(BlockPool::Block* block) {
    block->label = kKeptForGraphs;
    held_bytes_ += block->bytes;
    recording_->held_.push_back(block);
}

void DeviceAllocator::label(BlockPool::Block* block, const std::string& label) {
    std::lock_guard lock(mutex_);
    auto known = std::find(labels_.begin(), labels_.end(), label);
    block->label = static_cast<size_t>(known - labels_.begin());
    if (known == labels_.end()) labels_.push_back(label);
}

void DeviceAllocator::for_each_live(const std::function<void(const BlockPool::Block&)>& visit) const {
    cache_.for_each_live(visit);
    for (const GraphMemory* memory : graph_memories_) memory->blocks_.for_each_live(visit);
}

std::map<std::string, size_t> DeviceAllocator::live_by_label() const {
    std::map<std::string, size_t> bytes;
    for_each_live([&](const BlockPool::Block& block) {
        if (block.label != 0 && block.label != kKeptForGraphs) bytes[labels_[block.label]] += block.bytes;
    });
    return bytes;
}

MemoryStats DeviceAllocator::stats() {
    std::lock_guard lock(mutex_);
    MemoryStats stats = stats_;
    stats.graphs = stats_.reserved - cache_.reserved() + held_bytes_;
    stats.by_label = live_by_label();
    return stats;
}

void DeviceAllocator::reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak_allocated = stats_.allocated;
}

void DeviceAllocator::set_limit(size_t bytes) {
    std::lock_guard lock(mutex_);
    stats_.limit = bytes;
    if (bytes != 0 && stats_.reserved > bytes && recording_ == nullptr) cache_.release_free_segments();
}

void DeviceAllocator::empty_cache() {
    std::lock_guard lock(mutex_);
    if (recording_ == nullptr) cache_.release_free_segments();
}

std::shared_ptr<GraphMemory> DeviceAllocator::make_graph_memory() {
    auto memory = std::make_shared<GraphMemory>(*this, source(), caches_);
    std::lock_guard lock(mutex_);
    graph_memories_.insert(memory.get());
    return memory;
}

// The cache is emptied first: the graph can have that memory, and while something is captured nothing goes back to the
// driver, which would wait for the device.
void DeviceAllocator::begin_graph_memory(std::shared_ptr<GraphMemory> memory) {
    std::lock_guard lock(mutex_);
    LLMCORE_CHECK(recording_ == nullptr, "a graph is being captured on ", name_of(device_),
                  " already: one at a time on each device");
    cache_.release_free_segments();
    recording_ = std::move(memory);
    recorder_ = std::this_thread::get_id();
}

void DeviceAllocator::end_graph_memory() {
    std::shared_ptr<GraphMemory> ended;  // may be its last owner, whose end takes the lock
    std::lock_guard lock(mutex_);
    ended.swap(recording_);
}

void DeviceAllocator::dissolve(GraphMemory& memory) {
    std::lock_guard lock(mutex_);
    graph_memories_.erase(&memory);
    cache_.adopt(memory.blocks_);
    for (BlockPool::Block* block : memory.held_) {
        held_bytes_ -= block->bytes;
        if (recording_ != nullptr)
            hold(block);
        else
            cache_.give_back(block);
    }
    if (!caches_ && recording_ == nullptr) cache_.release_free_segments();
}

OutOfMemory DeviceAllocator::out_of_memory(size_t requested) const {
    size_t room = 0;  // what the driver would still give
    std::string where = "this device's memory";
    if constexpr (kWithCuda) {
        const DeviceFacts facts = cuda::describe(device_.index);
        room = facts.free_bytes;
        where += concat(" of ", memory_text(facts.total_bytes), ", ", memory_text(room), " of it free");
    }
    if (stats_.limit != 0) {
        const size_t left = stats_.limit > stats_.reserved ? stats_.limit - stats_.reserved : 0;
        if (left < room) where = concat("the memory limit of ", memory_text(stats_.limit));
        room = std::min(room, left);
    }
    const std::string holders = holders_text(live_by_label(), stats_.allocated);
    const size_t graphs = stats_.reserved - cache_.reserved() + held_bytes_;
    return OutOfMemory(concat(
        "out of memory on ", name_of(device_), ": a request of ", requested, " bytes",
        requested >> 20 ? concat(" (", memory_text(requested), ")") : "", " does not fit into ", where,
        ". llmcore holds ", memory_text(stats_.reserved), " there, ", memory_text(stats_.allocated), " of it in use",
        holders.empty() ? "" : concat(": ", holders), stats_.allocated > 0 ? largest_blocks() : "",
        graphs > 0 ? concat("; ", memory_text(graphs), " belong to captured graphs") : "",
        ". The largest request that would fit now: ", memory_text(std::max(room, cache_.largest_free())), "; ",
        kWhatNeedsLessMemory));
}

// "; the largest blocks: 12 x 1.0 GiB, 1 x 154.0 MiB, 48 x 27.0 MiB": the three sizes that hold most.
std::string DeviceAllocator::largest_blocks() const {
    std::map<size_t, size_t> count_of;  // by size
    for_each_live([&](const BlockPool::Block& block) { count_of[block.bytes] += 1; });
    std::vector<std::pair<size_t, size_t>> sizes;  // bytes in all, bytes of one
    for (auto [bytes, count] : count_of) sizes.emplace_back(bytes * count, bytes);
    std::sort(sizes.rbegin(), sizes.rend());
    sizes.resize(std::min(sizes.size(), size_t{3}));
    std::string text;
    for (auto [total, bytes] : sizes)
        text += concat(text.empty() ? "; most of it in blocks of " : ", ", memory_text(bytes), " x ", total / bytes);
    return text;
}

}  // namespace llmcore
