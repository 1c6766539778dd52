// Softmax over the last dimension: y = exp(x - max) / sum of exp(x - max) over C.
//
// x, y (N, C). dx = y * (dy - sum over C of dy * y). Sums in float. A row of -infinity gives NaN.
#pragma once

#include <cstdint>

namespace llmcore {

template <class Backend, class T>
void softmax_forward(Backend, T* y, const T* x, int64_t N, int64_t C);

template <class Backend, class T>
void softmax_backward(Backend, T* dx, const T* dy, const T* y, int64_t N, int64_t C);

}  // namespace llmcore
