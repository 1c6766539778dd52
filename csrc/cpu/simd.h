// A vector of floats as wide as the instruction-set level allows, written with the compilers' vector extensions, so one
// source serves SSE, AVX2, AVX-512 and NEON. Loads and stores convert bf16 on the way: kernels compute in float.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "core/bf16.h"
#include "core/inline.h"

namespace llmcore {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / 4;

typedef float Vec __attribute__((vector_size(kVectorBytes)));
typedef int32_t VecInt __attribute__((vector_size(kVectorBytes)));
typedef uint32_t VecUint __attribute__((vector_size(kVectorBytes)));
typedef uint16_t VecHalf __attribute__((vector_size(kVectorBytes / 2)));

LLMCORE_INLINE Vec splat(float value) {
    return value - Vec{};
}
LLMCORE_INLINE Vec bits_to_float(VecUint bits) {
    return reinterpret_cast<Vec>(bits);
}
LLMCORE_INLINE VecUint float_to_bits(Vec value) {
    return reinterpret_cast<VecUint>(value);
}
LLMCORE_INLINE Vec select(VecInt mask, Vec yes, Vec no) {
    return mask ? yes : no;
}
// Where one of the two is NaN, b: so at_most(v, limit) and at_least(v, limit) below keep a NaN.
// One instruction; of `a > b ? a : b` gcc makes two.
LLMCORE_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#elif defined(__x86_64__)
    return reinterpret_cast<Vec>(_mm_max_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
#else
    return a > b ? a : b;
#endif
}
LLMCORE_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec>(_mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#elif defined(__x86_64__)
    return reinterpret_cast<Vec>(_mm_min_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
#else
    return a < b ? a : b;
#endif
}
LLMCORE_INLINE Vec at_most(Vec v, float limit) {
    return min(splat(limit), v);
}
LLMCORE_INLINE Vec at_least(Vec v, float limit) {
    return max(splat(limit), v);
}
// Exactly rounded; compilers turn the loop into one instruction.
LLMCORE_INLINE Vec sqrt(Vec v) {
    Vec result;
    for (int i = 0; i < kLanes; ++i) result[i] = __builtin_sqrtf(v[i]);
    return result;
}

LLMCORE_INLINE Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// The bits of kLanes elements, each in the lower half of a lane. One instruction; of __builtin_convertvector gcc makes
// five for 512 bits.
LLMCORE_INLINE VecUint widen(const bf16* p) {
    VecHalf half;
    std::memcpy(&half, p, sizeof half);
#if defined(__AVX512F__)
    return reinterpret_cast<VecUint>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(half)));
#else
    return __builtin_convertvector(half, VecUint);
#endif
}

LLMCORE_INLINE Vec load(const bf16* p) {
    return bits_to_float(widen(p) << 16);
}

LLMCORE_INLINE void store(float* p, Vec v) {
    std::memcpy(p, &v, sizeof v);
}

// Round to nearest even; a NaN keeps its quiet bit, as in to_bf16. The instruction makes subnormal numbers zero.
LLMCORE_INLINE void store(bf16* p, Vec v) {
#if defined(__AVX512BF16__)
    VecHalf half = reinterpret_cast<VecHalf>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
#else
    VecUint bits = float_to_bits(v);
    VecUint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    VecUint quiet = (bits >> 16) | 0x40u;
    VecUint result = (v == v) ? rounded : quiet;
    VecHalf half = __builtin_convertvector(result, VecHalf);
#endif
    std::memcpy(p, &half, sizeof half);
}

// The first n lanes, the rest `fill`; n < kLanes. Through a buffer: correct everywhere, and tails are rare.
template <class T>
LLMCORE_INLINE Vec load_partial(const T* p, int64_t n, float fill = 0.0f) {
    float buffer[kLanes];
    for (int i = 0; i < kLanes; ++i) buffer[i] = i < n ? to_float(p[i]) : fill;
    return load(buffer);
}

template <class T>
LLMCORE_INLINE void store_partial(T* p, Vec v, int64_t n) {
    for (int i = 0; i < kLanes; ++i)
        if (i < n) p[i] = from_float<T>(v[i]);
}

// Sums the lanes in a fixed tree, so the result does not depend on the compiler's mood.
LLMCORE_INLINE float sum(Vec v) {
    float lane[kLanes];
    store(lane, v);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
    return lane[0];
}

LLMCORE_INLINE float max_lane(Vec v) {
    float result = v[0];
    for (int i = 1; i < kLanes; ++i) result = v[i] > result ? v[i] : result;
    return result;
}

// Calls body(column, load_at, store_at) over a row of C elements: whole vectors, then the tail.
//   for_each_vector(C, [&](auto at) { at.store(y, at.load(x) * scale); });
struct WholeVector {
    int64_t column;
    template <class T>
    LLMCORE_INLINE Vec load(const T* row, float = 0.0f) const {
        return ::llmcore::load(row + column);
    }
    template <class T>
    LLMCORE_INLINE void store(T* row, Vec v) const {
        ::llmcore::store(row + column, v);
    }
};

struct PartialVector {
    int64_t column, n;
    template <class T>
    LLMCORE_INLINE Vec load(const T* row, float fill = 0.0f) const {
        return load_partial(row + column, n, fill);
    }
    template <class T>
    LLMCORE_INLINE void store(T* row, Vec v) const {
        store_partial(row + column, v, n);
    }
};

template <class Body>
LLMCORE_INLINE void for_each_vector(int64_t C, const Body& body) {
    int64_t column = 0;
    for (; column + kLanes <= C; column += kLanes) body(WholeVector{column});
    if (column < C) body(PartialVector{column, C - column});
}

// v * 2^n for integers n from -252 to 254, also where 2^n alone is no float.
LLMCORE_INLINE Vec scale_by_power(Vec v, Vec n) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec>(
        _mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(n)));
#else
    VecInt exponent = __builtin_convertvector(n, VecInt), low = exponent >> 1, high = exponent - low;
    return v * reinterpret_cast<Vec>((low + 127) << 23) * reinterpret_cast<Vec>((high + 127) << 23);
#endif
}

// e^x, relative error below 2 ulp; 0 below -87.3 (where subnormal numbers count as zero), infinity above 88.7, NaN
// stays NaN. Range reduction to [-ln 2 / 2, ln 2 / 2] in two steps (Cody and Waite), then a polynomial of degree 6.
LLMCORE_INLINE Vec exp(Vec x) {
    Vec clamped = at_most(at_least(x, -104.0f), 89.0f);
    Vec shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low mantissa bits
    Vec n = shifted - 12582912.0f;
    Vec r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Vec p = splat(1.3930436e-3f);
    p = p * r + 8.3634920e-3f;
    p = p * r + 4.1666666e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000000e-1f;
    p = p * (r * r) + r + 1.0f;
    return scale_by_power(p, n);
}

// 1 / v for 1 <= v, relative error below 2 ulp; 0 for v beyond 2^126. A division takes 16 cycles of a unit that also
// multiplies; an estimate with a step of Newton's takes 4.
LLMCORE_INLINE Vec reciprocal(Vec v) {
#if defined(__AVX512F__)
    v = at_most(v, 0x1p127f);  // not infinity: times the estimate, 0, that is NaN
    Vec estimate = reinterpret_cast<Vec>(_mm512_maskz_rcp14_ps(0xffff, reinterpret_cast<__m512>(v)));
    return estimate + estimate * (1.0f - v * estimate);
#else
    return 1.0f / v;
#endif
}

}  // namespace
}  // namespace llmcore
