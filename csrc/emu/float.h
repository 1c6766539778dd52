// Instructions on single floats.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace llmcore::emu {

// ex2.approx.ftz: exactly rounded here; hardware may be off by two units in the last place.
inline float exp2_flushed(float x) {
    const float y = std::exp2(x);
    return y < std::numeric_limits<float>::min() ? 0.0f : y;
}

// cvt.rn.bf16.f32: the upper half of a float, to nearest, ties to even.
inline uint32_t bf16_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

}  // namespace llmcore::emu
