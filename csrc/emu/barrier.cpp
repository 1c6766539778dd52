#include "emu/barrier.h"

#include <algorithm>
#include <string>

#include "emu/machine.h"
#include "emu/policy.h"
#include "emu/scheduler.h"

namespace llmcore::emu {
namespace {

Barrier& barrier(int id, Location where) {
    if (id < 0 || id > 15) fail("barrier", "a block has barriers 0 to 15, got " + std::to_string(id), where);
    return self().block->barriers[id];
}

void check_line(Barrier& b, int id, Location where) {
    int& line = b.line_of_warp[self().warp()];
    if (line == 0) line = where.line;
    if (line == where.line) return;
    fail("divergence",
         "lanes of one warp meet barrier " + std::to_string(id) + " at lines " + std::to_string(line) + " and " +
             std::to_string(where.line),
         where);
}

void wake_all(std::vector<Thread*>& waiting, const Clock& clock) {
    for (Thread* thread : waiting) {
        acquire(*thread, clock);
        wake(*thread);
    }
    waiting.clear();
}

// True for the arrival that completes the barrier.
bool arrive(Barrier& b, int id, unsigned threads, Location where) {
    Thread& thread = self();
    ++statistics().barriers;
    if (threads == 0) threads = thread.block->size;
    if (threads % 32 && threads != thread.block->size)
        fail("barrier", "the thread count " + std::to_string(threads) + " is not a multiple of 32", where);
    if (b.arrived && b.expected != threads)
        fail("barrier", "barrier " + std::to_string(id) + ": threads disagree on the count", where);
    b.expected = threads;
    check_line(b, id, where);
    release(thread, b.clock);
    if (++b.arrived < threads) return false;
    b.arrived = 0;
    std::fill_n(b.line_of_warp, 32, 0);
    wake_all(b.waiting, b.clock);
    return true;
}

}  // namespace

void bar_sync(int id, unsigned threads, Location where) {
    Barrier& b = barrier(id, where);
    if (arrive(b, id, threads, where)) return acquire(self(), b.clock);
    b.waiting.push_back(&self());
    wait(id ? "bar.sync" : "__syncthreads", where, [id, &b] {
        return "barrier " + std::to_string(id) + ": " + std::to_string(b.arrived) + " of " +
               std::to_string(b.expected) + " have arrived";
    });
}

void bar_arrive(int id, unsigned threads, Location where) {
    arrive(barrier(id, where), id, threads, where);
}

void cluster_arrive(Location) {
    Thread& thread = self();
    Cluster& cluster = *thread.block->cluster;
    ClusterBarrier& b = cluster.barrier;
    release(thread, b.clock);
    thread.cluster_phase = b.phase;
    if (++b.arrived < cluster.blocks.size() * thread.block->size) return;
    b.arrived = 0;
    ++b.phase;
    wake_all(b.waiting, b.clock);
}

void cluster_wait(Location where) {
    Thread& thread = self();
    ClusterBarrier& b = thread.block->cluster->barrier;
    if (b.phase != thread.cluster_phase) return acquire(thread, b.clock);
    b.waiting.push_back(&thread);
    wait("barrier.cluster.wait", where);
}

uint32_t cluster_rank() {
    return self().block->rank;
}

uint32_t cluster_size() {
    return static_cast<uint32_t>(self().block->cluster->blocks.size());
}

}  // namespace llmcore::emu
