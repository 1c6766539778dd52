// Elementwise operations on Tensors. Formulas in kernels/elementwise.h.
#pragma once

#include "core/tensor.h"

namespace llmcore {

Tensor add(const Tensor& a, const Tensor& b);      // same shape, same float type
Tensor cast(const Tensor& x, DType dtype);         // a new tensor, also when the type is the same
void copy_into(const Tensor& y, const Tensor& x);  // y[...] = x, same shape, any types
void fill(const Tensor& y, double value);

}  // namespace llmcore
