// Philox4x32-10: random numbers as a pure function of (seed, counter), so masks do not depend on threads, grid or
// backend. Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <cstdint>

#include "core/inline.h"

namespace llmcore {

struct Philox4 {
    uint32_t word[4];
};

// Block `index` of the stream (seed, offset): counter = (index, offset), key = seed.
LLMCORE_INLINE Philox4 philox(uint64_t seed, uint64_t offset, uint64_t index) {
    uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
    uint32_t c2 = static_cast<uint32_t>(offset), c3 = static_cast<uint32_t>(offset >> 32);
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        uint64_t product0 = uint64_t{0xD2511F53u} * c0, product1 = uint64_t{0xCD9E8D57u} * c2;
        c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(product1);
        c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(product0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A dropout mask in one number: an element is kept if its word is at least this. p = 1 keeps nothing but 2^-32 of it.
LLMCORE_INLINE uint32_t dropout_threshold(float p) {
    double scaled = static_cast<double>(p) * 4294967296.0;
    return scaled >= 4294967295.0 ? 0xffffffffu : static_cast<uint32_t>(scaled);
}

}  // namespace llmcore
