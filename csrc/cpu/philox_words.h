// Philox words of a run of elements: sixteen counters side by side, in loops that the compiler turns into vector
// multiplications.
#pragma once

#include "core/philox.h"

namespace llmcore {
namespace {

constexpr int kPhiloxLanes = 16;
constexpr int64_t kWordsPadding = 4 * kPhiloxLanes + 3;

// Words of the elements first .. first + n - 1, where element e takes word e % 4 of block e / 4. `buffer` has room for
// n + kWordsPadding words; the result points into it.
inline const uint32_t* philox_words(uint32_t* buffer, uint64_t seed, uint64_t offset, uint64_t first, int64_t n) {
    uint64_t block = first / 4, end = (first + static_cast<uint64_t>(n) + 3) / 4;
    for (uint32_t* out = buffer; block < end; block += kPhiloxLanes, out += 4 * kPhiloxLanes) {
        uint32_t c0[kPhiloxLanes], c1[kPhiloxLanes], c2[kPhiloxLanes], c3[kPhiloxLanes];
        for (int i = 0; i < kPhiloxLanes; ++i) {
            c0[i] = static_cast<uint32_t>(block + i), c1[i] = static_cast<uint32_t>((block + i) >> 32);
            c2[i] = static_cast<uint32_t>(offset), c3[i] = static_cast<uint32_t>(offset >> 32);
        }
        uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < 10; ++round) {
            for (int i = 0; i < kPhiloxLanes; ++i) {
                uint64_t product0 = uint64_t{0xD2511F53u} * c0[i], product1 = uint64_t{0xCD9E8D57u} * c2[i];
                c0[i] = static_cast<uint32_t>(product1 >> 32) ^ c1[i] ^ k0;
                c1[i] = static_cast<uint32_t>(product1);
                c2[i] = static_cast<uint32_t>(product0 >> 32) ^ c3[i] ^ k1;
                c3[i] = static_cast<uint32_t>(product0);
            }
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int i = 0; i < kPhiloxLanes; ++i)
            out[4 * i] = c0[i], out[4 * i + 1] = c1[i], out[4 * i + 2] = c2[i], out[4 * i + 3] = c3[i];
    }
    return buffer + first % 4;
}

}  // namespace
}  // namespace llmcore
