// Warp collectives: shuffles, votes, __syncwarp, and every other instruction that the lanes of a mask execute together.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emu/error.h"

namespace llmcore::emu {

// A collective that some of its lanes have reached. Lanes may be in up to four disjoint masks at once.
struct Meeting {
    uint32_t mask = 0, arrived = 0;
    const char* name = "";
    void* arguments[32];
};

struct Warp {
    Meeting meetings[4];
};

// All lanes of the mask meet; the last to come runs act(arguments, mask) for all of them.
void collective(uint32_t mask, const char* name, void* argument, void (*act)(void** arguments, uint32_t mask),
                Location where);

unsigned current_lane();
uint64_t shuffle_bits(uint32_t mask, uint64_t bits, unsigned source, Location where);
uint32_t ballot(uint32_t mask, bool predicate, Location where);
void sync_warp(uint32_t mask, Location where);
// redux.sync: '+', '<' (min), '>' (max), '&', '|', '^'; is_signed is for min and max.
uint32_t reduce_bits(uint32_t mask, uint32_t value, char operation, bool is_signed, Location where);
// elect.sync: true in one lane of the mask, the same for the same mask; the order of threads decides which.
bool elect_one(uint32_t mask, Location where);

template <class T>
T shuffle(uint32_t mask, T value, unsigned source, Location where) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = shuffle_bits(mask, bits, source, where);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace llmcore::emu
