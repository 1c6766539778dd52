// Softmax of Tensors over the last dimension. Formulas in kernels/softmax.h.
#pragma once

#include "core/tensor.h"

namespace llmcore {

Tensor softmax_forward(const Tensor& x);                     // x (..., C) -> (..., C)
Tensor softmax_backward(const Tensor& dy, const Tensor& y);  // -> dx

}  // namespace llmcore
