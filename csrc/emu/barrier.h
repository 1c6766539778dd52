// Barriers of a block (bar.sync, bar.arrive; __syncthreads is barrier 0) and of a cluster.
#pragma once

#include <cstdint>
#include <vector>

#include "emu/clock.h"
#include "emu/error.h"

namespace llmcore::emu {

struct Thread;

struct Barrier {
    unsigned arrived = 0, expected = 0;
    std::vector<Thread*> waiting;
    int line_of_warp[32] = {};  // the lanes of a warp must meet it on one line
    Clock clock;
};

struct ClusterBarrier {
    unsigned arrived = 0;
    uint64_t phase = 0;
    std::vector<Thread*> waiting;
    Clock clock;
};

// threads = 0 means all of the block.
void bar_sync(int id, unsigned threads, Location where);
void bar_arrive(int id, unsigned threads, Location where);

void cluster_arrive(Location where);
void cluster_wait(Location where);
uint32_t cluster_rank();
uint32_t cluster_size();

}  // namespace llmcore::emu
