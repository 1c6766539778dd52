// The tile registers of AMX. A thread has them configured while it multiplies; outside they are released, so that other
// libraries find them so and switches of threads save nothing. No destructor does it: a level's code must not need the
// tables of exception handling, which the linker merges.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace llmcore {
namespace {

// Eight tiles of 16 rows of 64 bytes, as _tile_loadconfig reads them.
struct TileConfiguration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void begin_tiles(const TileConfiguration& configuration = {}) {
    // g++'s intrinsic says that it reads one pointer's worth of memory, so that the stores of the rest may be left out.
    asm volatile("" : : "m"(configuration));
    _tile_loadconfig(&configuration);
}

inline void end_tiles() {
    _tile_release();
}

}  // namespace
}  // namespace llmcore
