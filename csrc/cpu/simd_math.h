// Vector functions beyond simd.h: tanh, erf, sigmoid and the activations with their slopes. The error bounds were
// measured against float64 over all magnitudes, at every instruction-set level.
#pragma once

#include "core/activation.h"
#include "core/inline.h"
#include "cpu/simd.h"

namespace llmcore {
namespace {

LLMCORE_INLINE Vec abs(Vec x) {
    return bits_to_float(float_to_bits(x) & 0x7fffffffu);
}

// The magnitude of `magnitude` (not negative) with the sign of `sign`.
LLMCORE_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
    return bits_to_float(float_to_bits(magnitude) | (float_to_bits(sign) & 0x80000000u));
}

// Relative error below 2 ulp. An odd polynomial (Cephes tanhf) where 1 - 2 / (e^2x + 1) would cancel.
LLMCORE_INLINE Vec tanh(Vec x) {
    Vec magnitude = abs(x), square = x * x;
    Vec p = splat(-5.70498872745e-3f);
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    Vec small = p * square * x + x;
    Vec large = copy_sign(1.0f - 2.0f * reciprocal(exp(magnitude + magnitude) + 1.0f), x);
    return select(magnitude < splat(0.625f), small, large);
}

// Relative error below 2 ulp. A polynomial in x^2 below 0.93; above, 1 - exp(r(|x|)), which is 1 from 3.92 on.
LLMCORE_INLINE Vec erf(Vec x) {
    Vec square = x * x;
    Vec p = splat(-5.96761703e-4f);
    p = p * square + 4.99119423e-3f;
    p = p * square - 2.67681349e-2f;
    p = p * square + 1.12819925e-1f;
    p = p * square - 3.76125336e-1f;
    p = p * square + 1.28379166e-1f;
    Vec small = (p + 1.0f) * x;  // p x would be subnormal, and so zero, where x is nearly

    Vec t = at_most(abs(x), 4.0f);
    Vec r = splat(-1.72853470e-5f);
    r = r * t + 3.83197126e-4f;
    r = r * t - 3.88396438e-3f;
    r = r * t + 2.42546219e-2f;
    r = r * t - 1.06777877e-1f;
    r = r * t - 6.34846687e-1f;
    r = r * t - 1.28717512e-1f;
    r = r * t - t;
    Vec large = copy_sign(1.0f - exp(r), x);
    return select(abs(x) < splat(0.927734375f), small, large);
}

// 1 / (1 + e^-x), absolute error below 1e-7; 0 below -88.7.
LLMCORE_INLINE Vec sigmoid(Vec x) {
    return reciprocal(1.0f + exp(-x));
}

constexpr float kSqrtHalf = 0.70710678118654752f;       // 1 / sqrt(2)
constexpr float kSqrtTwoOverPi = 0.79788456080286536f;  // sqrt(2 / pi)
constexpr float kInvSqrtTwoPi = 0.39894228040143268f;   // 1 / sqrt(2 pi)
constexpr float kGeluCubic = 0.044715f;                 // Hendrycks and Gimpel 2016, arXiv:1606.08415

// activation(x) for finite x: absolute error below 2e-7 * max(1, |x|).
template <Activation kind>
LLMCORE_INLINE Vec activate(Vec x) {
    if constexpr (kind == Activation::kGeluTanh)
        return x * sigmoid(2.0f * kSqrtTwoOverPi * (x + kGeluCubic * x * x * x));  // 0.5 (1 + tanh u) = sigmoid(2 u)
    else if constexpr (kind == Activation::kGelu)
        return 0.5f * x * (1.0f + erf(x * kSqrtHalf));
    else if constexpr (kind == Activation::kRelu)
        return select(x <= Vec{}, Vec{}, x);  // this way round, so that a NaN stays one
    else if constexpr (kind == Activation::kSilu)
        return x * sigmoid(x);
    else if constexpr (kind == Activation::kTanh)
        return tanh(x);
    else
        return x;
}

// The derivative of activation at x: absolute error below 3e-7.
template <Activation kind>
LLMCORE_INLINE Vec activation_slope(Vec x) {
    // Beyond the limit every slope is 0 or 1 to within 1e-25, while powers of x would become infinity times zero.
    constexpr float limit = kind == Activation::kGeluTanh ? 9.0f : 80.0f;
    Vec c = at_most(at_least(x, -limit), limit), slope = splat(1.0f);
    if constexpr (kind == Activation::kGeluTanh) {
        Vec e = exp(-2.0f * kSqrtTwoOverPi * (c + kGeluCubic * c * c * c)), s = reciprocal(1.0f + e);
        slope = s + c * (e * s * s) * (2.0f * kSqrtTwoOverPi * (1.0f + 3.0f * kGeluCubic * c * c));  // e s = 1 - s
    } else if constexpr (kind == Activation::kGelu) {
        slope = 0.5f * (1.0f + erf(c * kSqrtHalf)) + c * (kInvSqrtTwoPi * exp(-0.5f * c * c));
    } else if constexpr (kind == Activation::kRelu) {
        slope = select(x > Vec{}, splat(1.0f), select(x == x, Vec{}, x));
    } else if constexpr (kind == Activation::kSilu) {
        Vec e = exp(-c), s = reciprocal(1.0f + e);
        slope = s * (1.0f + c * (e * s));  // 1 - s would cancel
    } else if constexpr (kind == Activation::kTanh) {
        Vec t = tanh(c);
        slope = 1.0f - t * t;
    }
    return slope;
}

// Calls body.template operator()<kind>() for the activation, so that the choice is made outside the loop.
template <class Body>
LLMCORE_INLINE void with_activation(Activation activation, const Body& body) {
    switch (activation) {
        case Activation::kNone:
            return body.template operator()<Activation::kNone>();
        case Activation::kGeluTanh:
            return body.template operator()<Activation::kGeluTanh>();
        case Activation::kGelu:
            return body.template operator()<Activation::kGelu>();
        case Activation::kRelu:
            return body.template operator()<Activation::kRelu>();
        case Activation::kSilu:
            return body.template operator()<Activation::kSilu>();
        case Activation::kTanh:
            return body.template operator()<Activation::kTanh>();
    }
}

}  // namespace
}  // namespace llmcore
