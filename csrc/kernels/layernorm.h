// Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016, arXiv:1607.06450).
//
//   y = (x - mean) * rstd * weight + bias,  rstd = 1 / sqrt(variance + epsilon), variance over C, biased
//
// x, y (N, C); weight, bias (C), bias may be null; mean, rstd (N) float, kept for the backward pass. The residual form
// first adds: sum = x + residual is written to `sum` (N, C) and normalised, in one pass over the row.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmcore {

// residual and sum are both null or both given. mean and rstd may be null (no backward pass will follow).
template <class Backend, class T>
void layernorm_forward(Backend, T* y, T* sum, float* mean, float* rstd, const T* x, const T* residual, const T* weight,
                       const T* bias, int64_t N, int64_t C, float epsilon);

// x is what was normalised (`sum` in the residual form). dx = ..., dweight and dbias (C) float += ...; both may be
// null. dsum (N, C), if not null, is the gradient that reaches `sum` from elsewhere; it is added into dx in the same
// pass.
template <class Backend, class T>
void layernorm_backward(Backend, T* dx, float* dweight, float* dbias, const T* dy, const T* dsum, const T* x,
                        const T* weight, const float* mean, const float* rstd, float* workspace, int64_t N, int64_t C);

// Floats of workspace: partial sums of dweight and dbias.
template <class Backend>
size_t layernorm_backward_workspace(Backend, int64_t N, int64_t C);

}  // namespace llmcore
