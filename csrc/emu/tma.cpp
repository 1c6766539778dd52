#include "emu/tma.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "emu/machine.h"
#include "emu/matrix.h"
#include "emu/policy.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

struct Load {
    TensorMap map;  // rank 0: a plain copy of `bytes` from map.base
    uint32_t destination, bytes, barrier;
    int coordinates[5];
    uint16_t multicast;
    Block* block;
    Clock knows;
    uint32_t tick;
    Location where;
};

// What the issuing thread knows is what the engine's accesses are ordered after.
uint32_t hand_over(Clock& knows) {
    if (!race_detection()) return 0;
    Thread& thread = self();
    knows = thread.clock;
    ++thread.clock.seen[thread.actor];
    return ++resident().async_ticks;
}

Actor engine(uint32_t tick, const Clock& knows) {
    return {resident().tma_actor, tick, knows, true};
}

// 16 bytes at a time, whether there is a map or not.
template <class Body>
void chunks_of(const TensorMap& map, const int* coordinates, uint32_t shared, uint32_t bytes, Body body) {
    if (map.rank) return for_chunks(map, coordinates, shared, body);
    for (uint32_t i = 0; i < bytes; i += 16) body(shared + i, map.base + i, 0, 16);
}

void load_into(Block& block, uint32_t barrier, const Load& load, Block& barrier_block) {
    int64_t bytes = 0;
    chunks_of(load.map, load.coordinates, load.destination & kOffsetMask, load.bytes,
              [&](uint32_t address, const char* source, int first, int valid) {
                  char* destination = block.shared.at(address, 16, load.where);
                  record(block, address, 16, AccessKind::kWrite, engine(load.tick, load.knows), load.where);
                  std::memset(destination, 0, 16);  // outside the tensor; counts towards the barrier all the same
                  if (valid) std::memcpy(destination + first, source, size_t(valid));
                  bytes += 16;
              });
    Clock knows = load.knows;
    if (race_detection()) knows.seen[resident().tma_actor] = std::max(knows.seen[resident().tma_actor], load.tick);
    mbarrier_complete_bytes(barrier_block, barrier, bytes, knows, load.where);
}

void land(const Load& load) {
    ++statistics().bulk_copies;
    Block& target = block_of(load.destination, *load.block);
    if (!load.multicast) return load_into(target, load.barrier, load, block_of(load.barrier, *load.block));
    auto& blocks = load.block->cluster->blocks;
    for (size_t rank = 0; rank < blocks.size(); ++rank)
        if (load.multicast >> rank & 1) load_into(*blocks[rank], load.barrier, load, *blocks[rank]);
}

void issue(Load load) {
    mbarrier_at(block_of(load.barrier, *load.block), load.barrier, load.where);
    load.tick = hand_over(load.knows);
    if (policy().copies == Landing::kEarly) return land(load);
    post_effect([load = std::move(load)] { land(load); });
}

template <class T>
void add_elements(char* destination, const char* source, int bytes) {
    for (int i = 0; i < bytes; i += int(sizeof(T))) {
        T a, b;
        std::memcpy(&a, destination + i, sizeof a);
        std::memcpy(&b, source + i, sizeof b);
        a = static_cast<T>(a + b);
        std::memcpy(destination + i, &a, sizeof a);
    }
}

void add_bf16(char* destination, const char* source, int bytes) {
    for (int i = 0; i < bytes; i += 2) {
        uint16_t a, b;
        std::memcpy(&a, destination + i, 2);
        std::memcpy(&b, source + i, 2);
        float sum = float_of_bf16(a) + float_of_bf16(b);
        uint32_t bits;
        std::memcpy(&bits, &sum, 4);
        bool nan = sum != sum;
        a = nan ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        std::memcpy(destination + i, &a, 2);
    }
}

void put(const BulkStore& store, char* destination, const char* source, int bytes) {
    if (!store.add)
        std::memcpy(destination, source, size_t(bytes));
    else if (store.map.type == TensorType::kFloat32)
        add_elements<float>(destination, source, bytes);
    else if (store.map.type == TensorType::kBf16)
        add_bf16(destination, source, bytes);
    else
        fail("tma", "reduce-add is emulated for float and bf16", store.where);
}

void land(Thread& thread, BulkStore& store) {
    ++statistics().bulk_copies;
    store.done = true;
    Block& block = *thread.block;
    chunks_of(store.map, store.coordinates, store.source, store.bytes,
              [&](uint32_t address, char* destination, int first, int valid) {
                  const char* source = block.shared.at(address, 16, store.where);
                  if (!valid) return;
                  record(block, address, 16, AccessKind::kRead, engine(store.tick, store.knows), store.where);
                  // Adding is what blocks may do to one address; only plain stores overwrite each other.
                  if (!store.add) record_global_store(destination, size_t(valid), block.cluster->number, store.where);
                  put(store, destination, source + first, valid);
              });
}

void issue(BulkStore store) {
    Thread& thread = self();
    store.group = thread.bulk.group;
    store.tick = hand_over(store.knows);
    if (lands_now(policy().copies)) land(thread, store);
    thread.bulk.pending.push_back(std::move(store));
}

void check_plain(uint32_t shared, const void* global, uint32_t bytes, Location where) {
    if (shared % 16 || reinterpret_cast<uintptr_t>(global) % 16 || bytes % 16)
        fail("align", "a bulk copy's addresses and size are multiples of 16", where);
}

}  // namespace

void tma_load(uint32_t destination, const CUtensorMap* map, uint32_t barrier, const int* coordinates, int rank,
              uint16_t multicast, Location where) {
    if (destination % 128) fail("align", "a TMA load's destination is not a multiple of 128", where);
    Load load{decode_tensor_map(map, rank, where), destination, 0, barrier, {}, multicast, self().block, {}, 0, where};
    std::copy_n(coordinates, rank, load.coordinates);
    issue(std::move(load));
}

void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier, Location where) {
    check_plain(destination, source, bytes, where);
    Load load{{}, destination, bytes, barrier, {}, 0, self().block, {}, 0, where};
    load.map.base = static_cast<char*>(const_cast<void*>(source));
    issue(std::move(load));
}

void tma_store(const CUtensorMap* map, uint32_t source, const int* coordinates, int rank, bool add, Location where) {
    if (source % 128) fail("align", "a TMA store's source is not a multiple of 128", where);
    BulkStore store;
    store.map = decode_tensor_map(map, rank, where);
    store.source = source;
    store.add = add;
    store.where = where;
    std::copy_n(coordinates, rank, store.coordinates);
    issue(std::move(store));
}

void bulk_store(void* destination, uint32_t source, uint32_t bytes, bool add_float, Location where) {
    check_plain(source, destination, bytes, where);
    BulkStore store;
    store.map = {};
    store.map.base = static_cast<char*>(destination);
    store.map.type = TensorType::kFloat32;
    store.source = source;
    store.bytes = bytes;
    store.add = add_float;
    store.where = where;
    issue(std::move(store));
}

void bulk_commit() {
    ++self().bulk.group;
}

void bulk_wait(int groups_left) {
    Thread& thread = self();
    std::erase_if(thread.bulk.pending, [&](BulkStore& store) {
        if (store.group >= thread.bulk.group - groups_left) return false;
        if (!store.done) land(thread, store);
        if (race_detection()) {
            uint32_t& seen = thread.clock.seen[resident().tma_actor];
            seen = std::max(seen, store.tick);
        }
        return true;
    });
}

void check_bulk_at_exit(const Thread& thread) {
    if (!thread.bulk.pending.empty())
        fail("tma", "the thread exits before its bulk store has read shared memory: no wait for its group",
             thread.bulk.pending.front().where);
}

}  // namespace llmcore::emu
