// Root mean square normalisation over the last dimension (Zhang, Sennrich 2019, arXiv:1910.07467).
//
//   y = x * rstd * weight,  rstd = 1 / sqrt(mean of x^2 over C + epsilon)
//
// x, y (N, C); weight (C); rstd (N) float, kept for the backward pass. The residual form first adds: sum = x + residual
// is written to `sum` (N, C) and normalised, in one pass over the row.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmcore {

// residual and sum are both null or both given. rstd may be null (no backward pass will follow).
template <class Backend, class T>
void rmsnorm_forward(Backend, T* y, T* sum, float* rstd, const T* x, const T* residual, const T* weight, int64_t N,
                     int64_t C, float epsilon);

// x is what was normalised (`sum` in the residual form). dx = ..., dweight (C) float += ...; it may be null. dsum
// (N, C), if not null, is the gradient that reaches `sum` from elsewhere; it is added into dx in the same pass.
template <class Backend, class T>
void rmsnorm_backward(Backend, T* dx, float* dweight, const T* dy, const T* dsum, const T* x, const T* weight,
                      const float* rstd, float* workspace, int64_t N, int64_t C);

// Floats of workspace: partial sums of dweight.
template <class Backend>
size_t rmsnorm_backward_workspace(Backend, int64_t N, int64_t C);

}  // namespace llmcore
