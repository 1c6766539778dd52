// The activations and their slopes for one float, as csrc/cpu/simd_math.h defines them: the same formulas, the same
// limits, the CUDA math library's exp, tanh and erf (2 ulp) in place of polynomials.
#pragma once

#include "core/activation.h"
#include "cuda/arch/target.cuh"

namespace llmcore {

constexpr float kSqrtHalf = 0.70710678118654752f;       // 1 / sqrt(2)
constexpr float kSqrtTwoOverPi = 0.79788456080286536f;  // sqrt(2 / pi)
constexpr float kInvSqrtTwoPi = 0.39894228040143268f;   // 1 / sqrt(2 pi)
constexpr float kGeluCubic = 0.044715f;                 // Hendrycks and Gimpel 2016, arXiv:1606.08415

LLMCORE_DEVICE float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// The choice is the same for all threads of a launch: a branch that costs next to nothing beside the memory around it.
LLMCORE_DEVICE float activate(Activation kind, float x) {
    switch (kind) {
        case Activation::kNone:
            return x;
        case Activation::kGeluTanh:  // 0.5 (1 + tanh u) = sigmoid(2 u)
            return x * sigmoid(2.0f * kSqrtTwoOverPi * (x + kGeluCubic * x * x * x));
        case Activation::kGelu:
            return 0.5f * x * (1.0f + erff(x * kSqrtHalf));
        case Activation::kRelu:
            return x <= 0.0f ? 0.0f : x;  // this way round, so that a NaN stays one
        case Activation::kSilu:
            return x * sigmoid(x);
        case Activation::kTanh:
            return tanhf(x);
    }
    return x;
}

// The derivative at x. Beyond a limit every slope is 0 or 1 to within 1e-25, while powers of x would become infinity
// times zero.
LLMCORE_DEVICE float activation_slope(Activation kind, float x) {
    if (x != x) return x;
    const float limit = kind == Activation::kGeluTanh ? 9.0f : 80.0f, c = fminf(fmaxf(x, -limit), limit);
    switch (kind) {
        case Activation::kNone:
            return 1.0f;
        case Activation::kGeluTanh: {
            const float e = expf(-2.0f * kSqrtTwoOverPi * (c + kGeluCubic * c * c * c)), s = 1.0f / (1.0f + e);
            const float inner = 2.0f * kSqrtTwoOverPi * (1.0f + 3.0f * kGeluCubic * c * c);
            return s + c * (e * s * s) * inner;  // e s = 1 - s, which would cancel
        }
        case Activation::kGelu:
            return 0.5f * (1.0f + erff(c * kSqrtHalf)) + c * (kInvSqrtTwoPi * expf(-0.5f * c * c));
        case Activation::kRelu:
            return x > 0.0f ? 1.0f : 0.0f;
        case Activation::kSilu: {
            const float e = expf(-c), s = 1.0f / (1.0f + e);
            return s * (1.0f + c * (e * s));
        }
        case Activation::kTanh: {
            const float t = tanhf(c);
            return 1.0f - t * t;
        }
    }
    return 1.0f;
}

}  // namespace llmcore
