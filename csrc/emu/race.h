// The race detector (vector clocks in the manner of FastTrack: Flanagan, Freund 2009, doi:10.1145/1542476.1542490) over
// shared memory, with a check of proxy fences; global_race.h does the same over global memory.
//
// It borrows the compiler's instrumentation: kernels compiled with -fsanitize=thread call __tsan_read4 and the like for
// every access, and race_hooks.cpp answers instead of ThreadSanitizer's own library. Elsewhere all of this is off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emu/clock.h"
#include "emu/error.h"

namespace llmcore::emu {

struct Block;
struct Thread;

// The last accesses of two bytes of shared memory.
struct Access {
    int actor = -1;
    uint32_t tick = 0;
    bool async = false;  // through the async proxy: TMA and wgmma
    bool atomic = false;
    Location where;
};
struct ShadowCell {
    Access write;
    std::vector<Access> reads;
};
using Shadow = std::vector<ShadowCell>;

// Who accesses shared memory, and what happened before: a thread, or an engine on behalf of the thread that issued.
struct Actor {
    unsigned number;
    uint32_t tick;
    const Clock& knows;
    bool async;
};

enum class AccessKind { kRead, kWrite, kAtomicRead, kAtomicWrite };  // atomics do not race with each other

bool race_detection();
void enable_race_detection();

void record(Block& block, uint32_t address, size_t bytes, AccessKind kind, const Actor& actor, Location where);
void record(Thread& thread, uint32_t address, size_t bytes, AccessKind kind, Location where);  // an ordinary access
void record_pointer(const void* pointer, size_t bytes, AccessKind kind, Location where);       // by the running thread

// Synchronisation: a thread gives what it knows to a clock, or takes it over.
void release(Thread& thread, Clock& to);
void acquire(Thread& thread, const Clock& from);

}  // namespace llmcore::emu
