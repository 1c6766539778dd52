// wgmma: matrix products of a warpgroup (four warps) with operands in shared memory, described by 64-bit descriptors,
// or A in registers. They execute any time between the last thread's issue and the wait for their group; meanwhile the
// accumulators hold a NaN of our own, so that using them early shows, and changing them is noticed.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "emu/clock.h"
#include "emu/error.h"

namespace llmcore::emu {

struct Thread;

struct WgmmaShape {
    int n;  // 8 to 256, a multiple of 8; M is 64, K 16 (bf16)
    bool accumulate, transposed_a, transposed_b;
    bool operator==(const WgmmaShape&) const = default;
};

struct WgmmaOperation {
    WgmmaShape shape;
    uint64_t a, b;  // descriptors
    bool a_registers;
    uint32_t registers[128][4];
    Thread* threads[128];
    float* accumulators[128];
    int arrived = 0;
    bool executed = false;
    Clock knows;
    uint32_t tick = 0;
    Location where;
};

struct Warpgroup {
    std::deque<WgmmaOperation> operations;  // not yet retired by all threads
    int first = 0;                          // number of operations.front()
    std::vector<Thread*> waiting;
    int registers = 0;  // per thread, after setmaxnreg
};

// An accumulator array in flight: what it will hold.
struct Accumulator {
    float* home;
    int size, pending;
    float value[128];
};

struct WgmmaState {  // of a thread
    int issued = 0, retired = 0;
    std::vector<int> groups;
    bool fenced = false;
    std::vector<Accumulator> accumulators;
};

void wgmma_fence();
// a_registers: four registers of A, or null and `a` is a descriptor. d has n / 2 floats.
void wgmma(float* d, const WgmmaShape& shape, const uint32_t* a_registers, uint64_t a, uint64_t b, Location where);
void wgmma_commit();
void wgmma_wait(int groups_left, Location where);

void set_max_registers(int count, Location where);
void check_registers_at_end();
void check_wgmma_at_exit(const Thread& thread);

}  // namespace llmcore::emu
