// Distributed shared memory: what the blocks of a cluster read and write of each other's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "emu/clock.h"
#include "emu/error.h"

namespace llmcore::emu {

struct Block;
struct Thread;

// A block's shared memory lives from its first thread's start to its last thread's exit. What others did to it has to
// be known, by way of a barrier, to one of its threads before that.
struct Lifetime {
    unsigned started = 0, exited = 0;
    Clock exit;                                                // what the threads that have exited knew
    std::map<unsigned, std::pair<uint32_t, Location>> guests;  // actor -> last tick of its accesses from outside
};

void load_cluster(uint32_t address, void* value, size_t bytes, Location where);
void store_cluster(uint32_t address, const void* value, size_t bytes, Location where);

// An access from another block of the cluster to this one, now.
void check_alive(Block& block, Location where);
void note_exit(Thread& thread);

}  // namespace llmcore::emu
