// Sums of floats in double that come out the same at every instruction-set level.
#pragma once

#include <cstdint>

#include "core/inline.h"

namespace llmcore {
namespace {

constexpr int kDoubleSums = 32;  // independent sums, whatever the vector width, so that all levels add in one order

// term(0) + ... + term(n - 1), each a double. A term must be exact (a float, a product of two floats), so that a fused
// multiply-add changes nothing.
template <class Term>
LLMCORE_INLINE double sum_in_double(int64_t n, const Term& term) {
    double sums[kDoubleSums] = {};
    int64_t i = 0;
    for (; i + kDoubleSums <= n; i += kDoubleSums)
        for (int lane = 0; lane < kDoubleSums; ++lane) sums[lane] += term(i + lane);
    for (int lane = 0; i < n; ++i, ++lane) sums[lane] += term(i);
    for (int width = kDoubleSums / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    return sums[0];
}

}  // namespace
}  // namespace llmcore
