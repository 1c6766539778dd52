// Philox words of a run of elements, several counters side by side: one in each 64-bit lane, whose lower half counts,
// so that a lane holds the 64-bit product of a round. The generator itself is in core/philox.h.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <utility>

#include "core/philox.h"
#include "cpu/simd.h"

namespace llmcore {
namespace {

typedef uint64_t VecWide __attribute__((vector_size(kVectorBytes)));
constexpr int kWideLanes = kVectorBytes / 8;
constexpr int64_t kWordsPadding = 4 * kWideLanes + 3;

// The products of the lower halves of the lanes. Spelled out, because from loops over 32-bit numbers gcc 12 made 9 ns
// an element with AVX-512, and this makes 0.4.
LLMCORE_INLINE VecWide multiply_lower(VecWide a, VecWide b) {
#if defined(__AVX512F__)
    // With a mask of ones, because gcc 12 warns of the uninitialised value inside its own _mm512_mul_epu32.
    return reinterpret_cast<VecWide>(
        _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<VecWide>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return reinterpret_cast<VecWide>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

LLMCORE_INLINE VecWide splat_wide(uint64_t value) {
    return value - VecWide{};
}

// Lanes of a and b by turns: the first half of both if half is 0, else the second.
template <int half, int... lane>
LLMCORE_INLINE VecWide interleave(VecWide a, VecWide b, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(a, b, (lane / 2 + half * kWideLanes / 2 + (lane % 2) * kWideLanes)...);
}

// Words of the elements first .. first + n - 1, where element e takes word e % 4 of block e / 4. `buffer` has room for
// n + kWordsPadding words; the result points into it.
inline const uint32_t* philox_words(uint32_t* buffer, uint64_t seed, uint64_t offset, uint64_t first, int64_t n) {
    uint64_t block = first / 4, end = (first + static_cast<uint64_t>(n) + 3) / 4;
    VecWide lanes{};
    for (int i = 0; i < kWideLanes; ++i) lanes[i] = static_cast<uint64_t>(i);
    const VecWide multiplier0 = splat_wide(0xD2511F53u), multiplier1 = splat_wide(0xCD9E8D57u);
    constexpr auto kLaneNumbers = std::make_integer_sequence<int, kWideLanes>{};
    for (uint32_t* out = buffer; block < end; block += kWideLanes, out += 4 * kWideLanes) {
        // The upper halves of c0 .. c3 hold leftovers, which no multiplication looks at.
        VecWide c0 = lanes + block, c1 = c0 >> 32, c2 = splat_wide(offset), c3 = c2 >> 32;
        uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < 10; ++round) {
            VecWide product0 = multiply_lower(c0, multiplier0), product1 = multiply_lower(c2, multiplier1);
            c0 = (product1 >> 32) ^ c1 ^ splat_wide(k0);
            c1 = product1;
            c2 = (product0 >> 32) ^ c3 ^ splat_wide(k1);
            c3 = product0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        VecWide words01 = (c0 & 0xffffffffu) | (c1 << 32), words23 = (c2 & 0xffffffffu) | (c3 << 32);
        VecWide low = interleave<0>(words01, words23, kLaneNumbers);
        VecWide high = interleave<1>(words01, words23, kLaneNumbers);
        std::memcpy(out, &low, sizeof low);
        std::memcpy(out + 2 * kWideLanes, &high, sizeof high);
    }
    return buffer + first % 4;
}

}  // namespace
}  // namespace llmcore
