// Who runs next. A fiber runs until it has to wait, so the interleaving is decided here, by the policy.
#pragma once

#include <functional>
#include <string>

#include "emu/cuda_types.h"
#include "emu/error.h"

namespace llmcore::emu {

struct LaunchShape {
    dim3 grid, block, cluster;
    size_t shared_bytes = 0;
    bool all_resident = false;       // all blocks at once, as a cooperative launch promises
    bool overlaps_previous = false;  // starts before the kernel ahead has ended (griddepcontrol)
};

// Runs kernel() once per thread of the grid. Throws Error for misuse, races and deadlocks.
void run(const LaunchShape& shape, const std::function<void()>& kernel);

struct Thread;

// Puts the running thread to sleep until somebody wakes it. `detail` adds to the deadlock report what it waits for.
void wait(const char* name, Location where, std::function<std::string()> detail = {});
void wake(Thread& thread);
void yield();  // the others first
// A yield of a loop that waits for the word at `address`. When all that can run are such loops, and nothing is left
// that could end them, it is a deadlock.
void spin(const void* address, Location where);
void made_progress();  // something that may end such a loop has happened

// Ends the launch with this error from a place through which nothing may be thrown: the running thread never goes on.
[[noreturn]] void stop(const Error& error);

// An asynchronous effect that lands later: when nobody can run, or with mixed landing at any moment before.
void post_effect(std::function<void()> effect);

std::string deadlock_report();

}  // namespace llmcore::emu
