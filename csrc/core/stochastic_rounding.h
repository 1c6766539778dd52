// Rounding to bf16 by chance, so that the mean of many roundings is the value itself: updates smaller than the distance
// of two bf16 numbers are made now and then instead of never. Gupta, Agrawal, Gopalakrishnan, Narayanan: "Deep learning
// with limited numerical precision", 2015, arXiv:1502.02551.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/inline.h"

namespace llmcore {

// One of the two bf16 neighbours of a float, as a float: the one away from zero with the probability of the distance
// from the other. `random` is uniform over all 32-bit numbers; its upper half is used. What is not finite stays.
LLMCORE_INLINE float round_to_bf16_randomly(float value, uint32_t random) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000u) == 0x7f800000u) return value;
    bits = (bits + (random >> 16)) & 0xffff0000u;  // a carry into the exponent is the next power of two
    std::memcpy(&value, &bits, sizeof bits);
    return value;
}

}  // namespace llmcore
