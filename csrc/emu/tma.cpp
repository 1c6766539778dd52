#include "emu/tma.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "emu/global_race.h"
#include "emu/machine.h"
#include "emu/matrix.h"
#include "emu/policy.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

struct Load {
    TensorMap map;  // rank 0: a plain copy of `bytes`, from map.base or from this block's shared memory
    uint32_t destination, bytes, barrier;
    int coordinates[5];
    bool multicast;
    uint16_t ranks;
    Block* block;
    uint32_t shared_source;   // 0: the source is global memory
    std::vector<char> value;  // st.async: what is stored, instead of a source
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

void complete(Block& block, const Load& load, int64_t bytes) {
    Clock knows = load.knows;
    if (race_detection()) knows.seen[resident().tma_actor] = std::max(knows.seen[resident().tma_actor], load.tick);
    mbarrier_complete_bytes(block, load.barrier, bytes, knows, load.where);
}

void check_target(Block& block, const Load& load) {
    if (&block == load.block && block.lifetime.exited == block.size)
        fail("tma", "the block exits with a bulk load in flight", load.where);
    check_alive(block, load.where);
}

void load_into(Block& block, const Load& load) {
    check_target(block, load);
    int64_t bytes = 0;
    chunks_of(load.map, load.coordinates, load.destination & kOffsetMask, load.bytes,
              [&](uint32_t address, const char* source, int first, int valid) {
                  char* destination = block.shared.at(address, 16, load.where);
                  record(block, address, 16, AccessKind::kWrite, engine(load.tick, load.knows), load.where);
                  std::memset(destination, 0, 16);  // outside the tensor; counts towards the barrier all the same
                  if (load.shared_source) {
                      uint32_t from = load.shared_source + uint32_t(bytes);
                      source = load.block->shared.at(from, 16, load.where);
                      record(*load.block, from, 16, AccessKind::kRead, engine(load.tick, load.knows), load.where);
                  } else if (valid) {
                      record_global(source, size_t(valid), AccessKind::kRead, engine(load.tick, load.knows),
                                    load.where);
                  }
                  if (valid) std::memcpy(destination + first, source, size_t(valid));
                  bytes += 16;
              });
    complete(block, load, bytes);
}

void store_value(Block& block, const Load& load) {
    check_target(block, load);
    const size_t bytes = load.value.size();
    std::memcpy(block.shared.at(load.destination, bytes, load.where), load.value.data(), bytes);
    record(block, load.destination, bytes, AccessKind::kWrite, engine(load.tick, load.knows), load.where);
    complete(block, load, int64_t(bytes));
}

// The ranks that the copy goes to; the engine lands it in each.
template <class Body>
void for_targets(const Load& load, Body body) {
    if (!load.multicast) return body(block_of(load.destination, *load.block));
    auto& blocks = load.block->cluster->blocks;
    for (size_t rank = 0; rank < blocks.size(); ++rank)
        if (load.ranks >> rank & 1) body(*blocks[rank]);
}

void land(const Load& load) {
    ++statistics().bulk_copies;
    for_targets(load, [&](Block& block) { load.value.empty() ? load_into(block, load) : store_value(block, load); });
}

void issue(Load load) {
    if (&block_of(load.barrier, *load.block) != &block_of(load.destination, *load.block))
        fail("tma", "the copy's destination and barrier are not in one block", load.where);
    for_targets(load, [&](Block& block) {
        check_alive(block, load.where);
        check_fenced(block, load.barrier, &block != load.block, load.where);
    });
    load.tick = hand_over(load.knows);
    if (policy().copies == Landing::kEarly) return land(load);
    post_effect([load = std::move(load)] { land(load); });
}

Load load_of(TensorMap map, uint32_t destination, uint32_t bytes, uint32_t barrier, Location where) {
    return {map, destination, bytes, barrier, {}, false, 0, self().block, 0, {}, {}, 0, where};
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

template <class Decode, class Encode>
void add_halves(char* destination, const char* source, int bytes, Decode decode, Encode encode) {
    for (int i = 0; i < bytes; i += 2) {
        uint16_t a, b;
        std::memcpy(&a, destination + i, 2);
        std::memcpy(&b, source + i, 2);
        a = encode(decode(a) + decode(b));
        std::memcpy(destination + i, &a, 2);
    }
}

uint16_t bf16_of(float sum) {
    uint32_t bits;
    std::memcpy(&bits, &sum, 4);
    return sum != sum ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t fp16_of(float sum) {
    _Float16 half = static_cast<_Float16>(sum);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

void put(const BulkStore& store, char* destination, const char* source, int bytes) {
    if (!store.add)
        std::memcpy(destination, source, size_t(bytes));
    else if (store.map.type == TensorType::kFloat32)
        add_elements<float>(destination, source, bytes);
    else if (store.map.type == TensorType::kBf16)
        add_halves(destination, source, bytes, float_of_bf16, bf16_of);
    else if (store.map.type == TensorType::kFp16)
        add_halves(destination, source, bytes, float_of_fp16, fp16_of);
    else
        fail("tma", "reduce-add is for float, bf16 and fp16", store.where);
}

void read_source(Thread& thread, BulkStore& store) {
    if (std::exchange(store.has_read, true)) return;
    Block& block = *thread.block;
    chunks_of(store.map, store.coordinates, store.source, store.bytes, [&](uint32_t address, char*, int, int valid) {
        const char* source = block.shared.at(address, 16, store.where);
        store.data.insert(store.data.end(), source, source + 16);
        if (!valid) return;
        record(block, address, 16, AccessKind::kRead, engine(store.read_tick, store.knows), store.where);
    });
}

void write_destination(Thread& thread, BulkStore& store) {
    read_source(thread, store);
    if (std::exchange(store.has_written, true)) return;
    ++statistics().bulk_copies;
    const char* source = store.data.data();
    Actor writer{resident().global_writer, store.write_tick, store.knows, true};
    chunks_of(store.map, store.coordinates, store.source, store.bytes,
              [&](uint32_t, char* destination, int first, int valid) {
                  const char* chunk = source;
                  source += 16;
                  if (!valid) return;
                  // Adding is what blocks may do to one address; only plain stores overwrite each other.
                  AccessKind kind = store.add ? AccessKind::kAtomicWrite : AccessKind::kWrite;
                  record_global(destination, size_t(valid), kind, writer, store.where);
                  put(store, destination, chunk + first, valid);
              });
}

void issue(BulkStore store) {
    Thread& thread = self();
    store.group = thread.bulk.group;
    store.read_tick = store.write_tick = hand_over(store.knows);
    if (lands_now(policy().copies)) read_source(thread, store);
    if (store.has_read && lands_now(policy().copies)) write_destination(thread, store);
    thread.bulk.pending.push_back(std::move(store));
}

void learn(Thread& thread, unsigned actor, uint32_t tick) {
    if (race_detection()) thread.clock.seen[actor] = std::max(thread.clock.seen[actor], tick);
}

void check_plain(uint32_t shared, const void* global, uint32_t bytes, Location where) {
    if (shared % 16 || reinterpret_cast<uintptr_t>(global) % 16 || bytes % 16)
        fail("align", "a bulk copy's addresses and size are multiples of 16", where);
}

}  // namespace

void tma_load(uint32_t destination, const CUtensorMap* map, uint32_t barrier, const int* coordinates, int rank,
              Location where) {
    if (destination % 128) fail("align", "a TMA load's destination is not a multiple of 128", where);
    Load load = load_of(decode_tensor_map(map, rank, where), destination, 0, barrier, where);
    std::copy_n(coordinates, rank, load.coordinates);
    issue(std::move(load));
}

void tma_load_multicast(uint32_t destination, const CUtensorMap* map, uint32_t barrier, const int* coordinates,
                        int rank, uint16_t ranks, Location where) {
    if (destination % 128) fail("align", "a TMA load's destination is not a multiple of 128", where);
    if (!ranks || ranks >> self().block->cluster->blocks.size())
        fail("cluster", "a multicast names blocks that the cluster does not have, or none", where);
    Load load = load_of(decode_tensor_map(map, rank, where), destination, 0, barrier, where);
    std::copy_n(coordinates, rank, load.coordinates);
    load.multicast = true;
    load.ranks = ranks;
    issue(std::move(load));
}

void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier, Location where) {
    check_plain(destination, source, bytes, where);
    Load load = load_of({}, destination, bytes, barrier, where);
    load.map.base = static_cast<char*>(const_cast<void*>(source));
    issue(std::move(load));
}

void bulk_copy_to_cluster(uint32_t destination, uint32_t source, uint32_t bytes, uint32_t barrier, Location where) {
    check_plain(destination, nullptr, bytes | source, where);
    Load load = load_of({}, destination, bytes, barrier, where);
    load.shared_source = source;
    issue(std::move(load));
}

void store_async_cluster(uint32_t address, const void* value, size_t bytes, uint32_t barrier, Location where) {
    if (address % bytes) fail("align", "an access to cluster memory is not aligned to its size", where);
    Load load = load_of({}, address, 0, barrier, where);
    load.value.assign(static_cast<const char*>(value), static_cast<const char*>(value) + bytes);
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

void bulk_wait_read(int groups_left) {
    Thread& thread = self();
    for (BulkStore& store : thread.bulk.pending) {
        if (store.group >= thread.bulk.group - groups_left) continue;
        read_source(thread, store);
        store.read_waited = true;
        learn(thread, resident().tma_actor, store.read_tick);
        if (lands_now(policy().copies)) write_destination(thread, store);
    }
}

void bulk_wait(int groups_left) {
    bulk_wait_read(groups_left);
    Thread& thread = self();
    std::erase_if(thread.bulk.pending, [&](BulkStore& store) {
        if (store.group >= thread.bulk.group - groups_left) return false;
        write_destination(thread, store);
        learn(thread, resident().global_writer, store.write_tick);
        return true;
    });
}

void write_pending_stores(Thread& thread) {
    for (BulkStore& store : thread.bulk.pending) write_destination(thread, store);
}

void check_bulk_at_exit(const Thread& thread) {
    for (const BulkStore& store : thread.bulk.pending)
        if (!store.read_waited)
            fail("tma", "the thread exits before its bulk store has read shared memory: no wait for its group",
                 store.where);
}

}  // namespace llmcore::emu
