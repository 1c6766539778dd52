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

struct BulkStore {
    TensorMap map;  // rank 0: a plain copy of `bytes` to map.base
    uint32_t source = 0, bytes = 0;
    int coordinates[5] = {};
    bool add = false;
    int group = 0;
    bool done = false;
    Clock knows;
    uint32_t tick = 0;
    Location where;
};

struct BulkState {  // of a thread
    std::vector<BulkStore> pending;
    int group = 0;
};

// multicast: a mask of ranks that all get the box, each at the same offsets and on its own barrier; 0 for none.
void tma_load(uint32_t destination, const CUtensorMap* map, uint32_t barrier, const int* coordinates, int rank,
              uint16_t multicast, Location where);
void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier, Location where);
// add: element by element, in the map's type.
void tma_store(const CUtensorMap* map, uint32_t source, const int* coordinates, int rank, bool add, Location where);
void bulk_store(void* destination, uint32_t source, uint32_t bytes, bool add_float, Location where);
void bulk_commit();
void bulk_wait(int groups_left);

// A thread may not exit while the engine may still read its shared memory.
void check_bulk_at_exit(const Thread& thread);

}  // namespace llmcore::emu
