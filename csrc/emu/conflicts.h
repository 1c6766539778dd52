// Bank conflicts of ordinary accesses to shared memory, as a number that a test can hold a kernel to. The race build's
// instrumentation shows each thread's accesses; those that the lanes of a warp make with one instruction, each for the
// n-th time, are taken for one request. 32 banks of 4 bytes serve one word each at a time; requests of 8 and 16 bytes
// go by half and quarter warps, so a conflict is a wavefront more than the lanes' bytes need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "emu/error.h"

namespace llmcore::emu {

struct Block;
struct Thread;

struct WarpAccesses {  // of a block
    struct Request {
        uint32_t lanes = 0, bytes = 0;
        uint32_t address[32];
        Location where;
    };
    std::unordered_map<uint64_t, uint32_t> times;      // (instruction, thread) -> how often so far
    std::unordered_map<uint64_t, Request> incomplete;  // (instruction, warp, how often)
};

// Counted where policy().count_bank_conflicts says so, into statistics().shared_bank_conflicts.
void note_access(Thread& thread, uint32_t address, size_t bytes, Location where);
void count_conflicts(Block& block);  // of the requests that not all lanes took part in; at the block's end

struct LineConflicts {
    std::string line;
    uint64_t conflicts;
};
std::vector<LineConflicts> conflicts_by_line();  // since statistics() were reset to none, worst first

}  // namespace llmcore::emu
