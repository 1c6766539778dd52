// mbarrier objects: phases that complete when all arrivals and all expected bytes have come. The state stands beside a
// cookie in shared memory, so that a barrier that somebody overwrites is noticed.
#pragma once

#include <cstdint>
#include <vector>

#include "emu/clock.h"
#include "emu/error.h"

namespace llmcore::emu {

struct Block;
struct Thread;

struct MBarrier {
    uint32_t expected = 0, pending = 0, phase = 0;
    int64_t bytes = 0;  // still to come in this phase
    std::vector<Thread*> waiting;
    // Who initialised it, and for whom that thread has fenced it since: the async proxy, the cluster.
    const Thread* initialiser = nullptr;
    bool known_to_copies = false, known_to_cluster = false;
    Clock next, done;  // what arrivals of this phase know; what waiters of finished phases learn
};

void mbarrier_init(uint32_t address, uint32_t count, Location where);
void fence_mbarrier_init();
void fence_proxy_async();  // what the running thread knows of is from now on visible to the async proxy
// A bulk copy is about to use it, on behalf of the block that issues it.
void check_fenced(Block& block, uint32_t address, bool from_another_block, Location where);
void mbarrier_invalidate(uint32_t address, Location where);
// The address may be another block's of the cluster. expect_bytes are added before the arrival counts.
void mbarrier_arrive(uint32_t address, uint32_t count, uint32_t expect_bytes, Location where);
void mbarrier_expect(uint32_t address, uint32_t bytes, Location where);
// True when the phase of this parity has completed; may give up with false, as the hardware may.
bool mbarrier_try_wait(uint32_t address, uint32_t parity, Location where);

// An engine's bytes have landed; `knows` is what its issuer knew and the engine did.
void mbarrier_complete_bytes(Block& block, uint32_t address, int64_t bytes, const Clock& knows, Location where);
// The same for an arrival that was promised earlier (cp.async.mbarrier.arrive).
void mbarrier_complete_arrival(Block& block, uint32_t address, const Clock& knows, Location where);
MBarrier& mbarrier_at(Block& block, uint32_t address, Location where);

}  // namespace llmcore::emu
