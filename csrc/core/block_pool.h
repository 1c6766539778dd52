// Blocks of memory cut out of large segments: best fit, with splitting and merging. For a GPU, where asking the system
// for memory takes as long as a small kernel and giving it back waits for all work. Knows no device and no locks; its
// owner (core/device_allocator.h) has both.
#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <vector>

namespace llmcore {

class BlockPool {
  public:
    struct Block {
        char* data;
        size_t bytes;
        bool free;
        bool small;             // lies in a segment for small blocks
        Block *before, *after;  // neighbours in the segment, null at its ends
        BlockPool* pool;        // where it is given back to
        size_t label = 0;       // whose it is: an index that the owner understands
    };

    // Where segments come from. `obtain` returns nullptr if there is no more.
    struct Source {
        std::function<char*(size_t bytes)> obtain;
        std::function<void(char* segment, size_t bytes)> release;
    };

    // Not `caches`: every block is a segment of exactly the bytes that were asked for and is never used twice, so that
    // tools which watch allocations (AddressSanitizer, compute-sanitizer) see the ends of every tensor.
    BlockPool(Source source, bool caches) : source_(std::move(source)), caches_(caches) {}
    ~BlockPool();  // deletes the records; the memory of live blocks stays
    BlockPool(const BlockPool&) = delete;
    BlockPool& operator=(const BlockPool&) = delete;

    // A block of at least this size, from a free one or a new segment; nullptr if neither is to be had.
    Block* take(size_t bytes);
    void give_back(Block* block);
    void release_free_segments();
    void release(Block* segment);  // a free block that is a whole segment

    // All segments of `other`, with their live blocks, which are given back to this pool from now on.
    void adopt(BlockPool& other);

    size_t reserved() const { return reserved_; }  // bytes of all segments
    size_t largest_free() const;
    void for_each_live(const std::function<void(const Block&)>& visit) const;

  private:
    struct BySize {
        bool operator()(const Block* a, const Block* b) const {
            return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
        }
    };
    using FreeBlocks = std::set<Block*, BySize>;

    FreeBlocks& free_blocks(bool small) { return small ? small_ : large_; }
    Block* new_segment(size_t bytes, bool small);
    void split(Block* block, size_t bytes);
    void absorb_next(Block* block);

    const Source source_;
    const bool caches_;
    std::set<Block*> segments_;  // the first block of each
    FreeBlocks small_, large_;
    size_t reserved_ = 0;
};

}  // namespace llmcore
