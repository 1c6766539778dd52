// The size of gradients: their 2-norm over many arrays, and whether all of them are finite.
//
// The sum of squares is taken in double, in pieces of kNormPiece elements whose cuts depend on the array's length only.
// A product of two floats is exact in double, so the result is the same for every thread count and every way in which a
// compiler joins the product and the sum.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmcore {

inline constexpr int64_t kNormPiece = 1 << 16;

constexpr int64_t norm_pieces(int64_t n) {
    return (n + kNormPiece - 1) / kNormPiece;
}

// partial[i] = sum of x^2 over piece i; partial (norm_pieces(n)), x (n)
template <class Backend>
void squared_norm_pieces(Backend, double* partial, const float* x, int64_t n);

// norm (1) = sqrt(partial[0] + partial[1] + ...); partial (count)
template <class Backend>
void norm_of_pieces(Backend, float* norm, const double* partial, int64_t count);

// factor (1) = min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it; a NaN stays a NaN
template <class Backend>
void clip_factor(Backend, float* factor, const float* norm, float max_norm);

// flag (1) = 1 if no element of x (n) is infinite or NaN, else 0
template <class Backend, class T>
void all_finite(Backend, int32_t* flag, const T* x, int64_t n);

}  // namespace llmcore
