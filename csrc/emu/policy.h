// Everything that hardware leaves open and the emulator therefore decides: in which order threads and blocks run, and
// when asynchronous effects land. A kernel is right only if it is right under every policy; tests loop over them.
#pragma once

#include <cstdint>

namespace llmcore::emu {

enum class Order { kForward, kReverse, kRandom };  // of threads and of blocks

// Late finds missing waits (the data is not there yet), early finds sources and destinations touched too soon, mixed
// draws for each effect.
enum class Landing { kLate, kEarly, kMixed };

struct Policy {
    Order order = Order::kForward;
    Landing copies = Landing::kLate;  // cp.async and TMA
    Landing math = Landing::kLate;    // wgmma
    uint64_t seed = 1;
    bool all_resident = false;  // all blocks at once, for grid-wide protocols; otherwise one cluster after another
    bool count_bank_conflicts = false;    // of ordinary accesses, in the race build; slow
    uint64_t switch_limit = 500'000'000;  // watchdog: a spin loop that yields never deadlocks, but ends here
};

// Properties of the launches since the last reset, which tests may assert on.
struct Statistics {
    uint64_t switches = 0;
    uint64_t collectives = 0;
    uint64_t barriers = 0;
    uint64_t matrix_instructions = 0;  // mma.sync and wgmma
    uint64_t bulk_copies = 0;
    uint64_t bank_conflicts = 0;         // wavefronts of ldmatrix and stmatrix beyond the first
    uint64_t shared_bank_conflicts = 0;  // of ordinary accesses, see policy().count_bank_conflicts
};

Policy& policy();
Statistics& statistics();
uint32_t draw();          // of the launch's own generator
bool lands_now(Landing);  // for an effect issued now: early yes, late no, mixed by lot

}  // namespace llmcore::emu
