// The activation functions by themselves; core/activation.h lists them, `linear` has them fused. All arrays have n
// elements. Nothing but the input is kept: every slope is computed again from it, cheaper than a second array.
#pragma once

#include <cstdint>

#include "core/activation.h"

namespace llmcore {

// y = activation(x)
//   gelu_new  x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))   Hendrycks, Gimpel 2016, arXiv:1606.08415
//   gelu      x / 2 * (1 + erf(x / sqrt(2)))
//   relu      max(x, 0)
//   silu      x * sigmoid(x)                                          Elfwing, Uchibe, Doya 2017, arXiv:1702.03118
//   tanh
template <class Backend, class T>
void activation_forward(Backend, T* y, const T* x, int64_t n, Activation activation);

// dx = dy * activation'(x)
template <class Backend, class T>
void activation_backward(Backend, T* dx, const T* dy, const T* x, int64_t n, Activation activation);

// y = 1 / (1 + e^-x)
template <class Backend, class T>
void sigmoid_forward(Backend, T* y, const T* x, int64_t n);

// dx = dy * y * (1 - y)
template <class Backend, class T>
void sigmoid_backward(Backend, T* dx, const T* dy, const T* y, int64_t n);

// y = silu(gate) * up                                                 Shazeer 2020, arXiv:2002.05202
template <class Backend, class T>
void swiglu_forward(Backend, T* y, const T* gate, const T* up, int64_t n);

// dgate = dy * up * silu'(gate), dup = dy * silu(gate)
template <class Backend, class T>
void swiglu_backward(Backend, T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n);

}  // namespace llmcore
