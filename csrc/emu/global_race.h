// The race detector over global memory: the last accesses of every two bytes, by any block of the launch (and, where a
// kernel may start before the one ahead of it has ended, by that one's), and what release and acquire made known.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emu/error.h"
#include "emu/race.h"

namespace llmcore::emu {

// A launch begins; overlaps_previous: it starts without knowing that the one before has ended.
void begin_kernel(bool overlaps_previous);
uint32_t begin_residence();  // a number for the blocks that now run together
// What a thread knows at its start of the kernels before, and after griddepcontrol.wait.
uint32_t kernels_known_at_start();
uint32_t kernels_before();

void record_global(const void* pointer, size_t bytes, AccessKind kind, const Actor& actor, Location where);

// Synchronisation through the word at this address, by the running thread.
void release_at(const void* address, bool replaces);  // a store replaces what others released here, an atomic adds
void acquire_at(const void* address);
void relaxed_at(const void* address);  // counts together with thread_fence

}  // namespace llmcore::emu
