// The emulated machine's state: who is running, and what the threads of a warp, a block and a cluster share.
// The instructions' own state stands in their headers; here it is only put in its place.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emu/barrier.h"
#include "emu/clock.h"
#include "emu/cluster_memory.h"
#include "emu/conflicts.h"
#include "emu/cp_async.h"
#include "emu/cuda_types.h"
#include "emu/error.h"
#include "emu/fiber.h"
#include "emu/mbarrier.h"
#include "emu/race.h"
#include "emu/shared_memory.h"
#include "emu/tma.h"
#include "emu/warp.h"
#include "emu/wgmma.h"

namespace llmcore::emu {

struct Block;
struct Cluster;

struct Thread {
    Fiber fiber;
    Block* block = nullptr;
    uint3 index{};        // threadIdx
    unsigned number = 0;  // in the block; warp and lane follow from it
    unsigned actor = 0;   // among all actors of the resident blocks: its place in every clock
    bool done = false;

    // Where it waits; for the deadlock report.
    bool waiting = false;
    const char* wait_name = "";
    Location wait_location;
    std::function<std::string()> wait_detail;

    CpAsyncState cp_async;
    BulkState bulk;
    WgmmaState wgmma;
    Clock clock;
    std::unique_ptr<Clock> fence, unfenced;  // at the last __threadfence; what relaxed atomics saw since
    uint64_t cluster_phase = 0;              // of the cluster barrier, when it arrived

    unsigned lane() const { return number % 32; }
    unsigned warp() const { return number / 32; }
};

struct Block {
    Cluster* cluster = nullptr;
    unsigned rank = 0;     // in the cluster
    unsigned ordinal = 0;  // among the resident blocks
    uint3 index{};         // blockIdx
    unsigned size = 0;     // threads
    Thread* threads = nullptr;

    std::vector<Warp> warps;
    std::vector<Warpgroup> warpgroups;
    Barrier barriers[16];
    SharedMemory shared;
    std::unordered_map<uint32_t, MBarrier> mbarriers;
    Shadow shadow;
    Lifetime lifetime;
    WarpAccesses accesses;  // for bank conflicts
};

struct Cluster {
    unsigned number = 0;
    std::vector<std::unique_ptr<Block>> blocks;
    ClusterBarrier barrier;
};

// The blocks that run at the same time: one cluster, or all of them where the policy says so.
struct Resident {
    std::vector<std::unique_ptr<Cluster>> clusters;
    std::vector<Thread> threads;
    std::deque<Thread*> ready;
    std::deque<std::function<void()>> effects;  // asynchronous, issued but not yet landed
    size_t alive = 0;
    size_t idle_spins = 0;  // loads in waiting loops since anything else happened
    dim3 block_dim, grid_dim;

    // Actors after the threads: the TMA engine between memories, its writes to global memory, each block's warpgroups.
    unsigned actors = 0, tma_actor = 0, global_writer = 0, warpgroups = 0;
    uint32_t async_ticks = 0;
    uint32_t residence = 0;  // number of these blocks' time together, for the race detector

    bool is_engine(unsigned actor) const { return actor >= tma_actor; }
    std::string name_of_actor(unsigned actor) const;

    const std::function<void()>* kernel = nullptr;
    Fiber main;
    std::unique_ptr<Error> error;
};

Resident& resident();
// Null outside kernels, and while an asynchronous effect lands. A variable, because instrumented host code asks, too.
extern Thread* running_thread;
inline Thread* current_thread() {
    return running_thread;
}
Thread& self();  // the same, where there must be one

}  // namespace llmcore::emu
