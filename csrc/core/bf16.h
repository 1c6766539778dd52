// bfloat16 as storage: the upper half of a float. Arithmetic happens in float.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/inline.h"

namespace llmcore {

struct bf16 {
    uint16_t bits;
};

LLMCORE_INLINE float to_float(float value) {
    return value;
}

LLMCORE_INLINE float to_float(bf16 value) {
    uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// Rounds to nearest, ties to even, as the hardware does. A NaN stays a NaN: its payload could round up to infinity.
LLMCORE_INLINE bf16 to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
    bits += 0x7fffu + ((bits >> 16) & 1);
    return {static_cast<uint16_t>(bits >> 16)};
}

template <class T>
LLMCORE_INLINE T from_float(float value);
template <>
LLMCORE_INLINE float from_float<float>(float value) {
    return value;
}
template <>
LLMCORE_INLINE bf16 from_float<bf16>(float value) {
    return to_bf16(value);
}

}  // namespace llmcore
