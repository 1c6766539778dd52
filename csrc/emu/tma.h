// TMA: asynchronous copies of boxes between global and shared memory, and plain bulk copies (1-D, without a map). Loads
// complete bytes on an mbarrier; stores and reductions are waited for in groups of the issuing thread.
#pragma once

#include <cstdint>
#include <vector>

#include "emu/clock.h"
#include "emu/error.h"
#include "emu/tensor_map.h"

namespace llmcore::emu {

struct Thread;

struct BulkStore {  // reads shared memory, later writes global memory
    TensorMap map;  // rank 0: a plain copy of `bytes` to map.base
    uint32_t source = 0, bytes = 0;
    int coordinates[5] = {};
    bool add = false;
    int group = 0;
    bool has_read = false, has_written = false, read_waited = false;
    std::vector<char> data;  // between the two
    Clock knows;
    uint32_t read_tick = 0, write_tick = 0;
    Location where;
};

struct BulkState {  // of a thread
    std::vector<BulkStore> pending;
    int group = 0;
};

void tma_load(uint32_t destination, const CUtensorMap* map, uint32_t barrier, const int* coordinates, int rank,
              Location where);
// ranks: a mask of the blocks that all get the box, each at the same offsets and on its own barrier.
void tma_load_multicast(uint32_t destination, const CUtensorMap* map, uint32_t barrier, const int* coordinates,
                        int rank, uint16_t ranks, Location where);
void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier, Location where);
// Between the blocks of a cluster; destination and barrier belong to the same one. The store is st.async.
void bulk_copy_to_cluster(uint32_t destination, uint32_t source, uint32_t bytes, uint32_t barrier, Location where);
void store_async_cluster(uint32_t address, const void* value, size_t bytes, uint32_t barrier, Location where);
// add: element by element, in the map's type.
void tma_store(const CUtensorMap* map, uint32_t source, const int* coordinates, int rank, bool add, Location where);
void bulk_store(void* destination, uint32_t source, uint32_t bytes, bool add_float, Location where);
void bulk_commit();
// The groups due have read shared memory; the other, have written global memory, too. What nobody waits for is written
// when the kernel ends.
void bulk_wait_read(int groups_left);
void bulk_wait(int groups_left);
void write_pending_stores(Thread& thread);

// A thread may not exit while the engine may still read its shared memory.
void check_bulk_at_exit(const Thread& thread);

}  // namespace llmcore::emu
