#include "core/block_pool.h"

#include <algorithm>

namespace llmcore {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kGranule = 512;  // blocks begin and end at multiples of this: whole cache lines, and few odd leftovers

// Small blocks have segments of their own: one of them that lives long would otherwise keep a large segment from being
// given back. Middling ones share a segment, large ones get one that fits.
constexpr size_t kLargestSmall = kMiB, kSmallSegment = 2 * kMiB;
constexpr size_t kLargestShared = 10 * kMiB, kSharedSegment = 20 * kMiB;

size_t round_up(size_t bytes, size_t granule) {
    return (bytes + granule - 1) / granule * granule;
}

size_t segment_size(size_t bytes, bool small) {
    if (small) return kSmallSegment;
    return bytes < kLargestShared ? kSharedSegment : round_up(bytes, 2 * kMiB);
}

}  // namespace

BlockPool::~BlockPool() {
    for (Block* block : segments_) {
        while (block != nullptr) {
            Block* after = block->after;
            delete block;
            block = after;
        }
    }
}

BlockPool::Block* BlockPool::take(size_t bytes) {
    bytes = caches_ ? round_up(std::max(bytes, size_t{1}), kGranule) : std::max(bytes, size_t{1});
    const bool small = bytes <= kLargestSmall;
    FreeBlocks& candidates = free_blocks(small);
    Block wanted{nullptr, bytes, true, small, nullptr, nullptr, nullptr};
    auto found = caches_ ? candidates.lower_bound(&wanted) : candidates.end();
    Block* block = nullptr;
    if (found != candidates.end()) {
        block = *found;
        candidates.erase(found);
    } else {
        block = new_segment(bytes, small);
        if (block == nullptr) return nullptr;
    }
    block->free = false;
    if (caches_) split(block, bytes);
    return block;
}

BlockPool::Block* BlockPool::new_segment(size_t bytes, bool small) {
    size_t size = caches_ ? segment_size(bytes, small) : bytes;
    char* data = source_.obtain(size);
    if (data == nullptr && size != bytes) {  // not with room for more, but perhaps alone
        size = bytes;
        data = source_.obtain(size);
    }
    if (data == nullptr) return nullptr;
    reserved_ += size;
    auto* block = new Block{data, size, true, small, nullptr, nullptr, this};
    segments_.insert(block);
    return block;
}

// Leaves `bytes` of the block to it and frees the rest.
void BlockPool::split(Block* block, size_t bytes) {
    if (block->bytes == bytes) return;
    auto* rest = new Block{block->data + bytes, block->bytes - bytes, true, block->small, block, block->after, this};
    if (block->after != nullptr) block->after->before = rest;
    block->after = rest;
    block->bytes = bytes;
    free_blocks(rest->small).insert(rest);
}

void BlockPool::absorb_next(Block* block) {
    Block* next = block->after;
    block->bytes += next->bytes;
    block->after = next->after;
    if (block->after != nullptr) block->after->before = block;
    delete next;
}

void BlockPool::give_back(Block* block) {
    block->free = true;
    block->label = 0;
    if (!caches_) return;  // its memory stays untouched until release_free_segments
    FreeBlocks& others = free_blocks(block->small);
    if (block->after != nullptr && block->after->free) {
        others.erase(block->after);
        absorb_next(block);
    }
    if (block->before != nullptr && block->before->free) {
        block = block->before;
        others.erase(block);
        absorb_next(block);
    }
    others.insert(block);
}

void BlockPool::release_free_segments() {
    for (auto each = segments_.begin(); each != segments_.end();) {
        Block* block = *each;
        if (!block->free || block->after != nullptr) {
            ++each;
            continue;
        }
        ++each;
        release(block);
    }
}

void BlockPool::release(Block* segment) {
    segments_.erase(segment);
    if (caches_) free_blocks(segment->small).erase(segment);
    reserved_ -= segment->bytes;
    source_.release(segment->data, segment->bytes);
    delete segment;
}

void BlockPool::adopt(BlockPool& other) {
    for (Block* first : other.segments_) {
        segments_.insert(first);
        for (Block* block = first; block != nullptr; block = block->after) {
            block->pool = this;
            if (block->free && caches_) free_blocks(block->small).insert(block);
        }
    }
    reserved_ += other.reserved_;
    other.reserved_ = 0;
    other.segments_.clear();
    other.small_.clear();
    other.large_.clear();
}

size_t BlockPool::largest_free() const {
    size_t largest = 0;
    for (const FreeBlocks* blocks : {&small_, &large_})
        if (!blocks->empty()) largest = std::max(largest, (*blocks->rbegin())->bytes);
    return largest;
}

void BlockPool::for_each_live(const std::function<void(const Block&)>& visit) const {
    for (const Block* block : segments_)
        for (; block != nullptr; block = block->after)
            if (!block->free) visit(*block);
}

}  // namespace llmcore
