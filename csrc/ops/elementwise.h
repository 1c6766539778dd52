// Elementwise operations on Tensors. Formulas in kernels/elementwise.h.
#pragma once

#include "core/tensor.h"

namespace llmcore {

Tensor add(const Tensor& a, const Tensor& b);  // same shape, same float type, as for sub and mul
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor scale(const Tensor& x, double factor, double offset);  // x * factor + offset
void add_into(const Tensor& y, const Tensor& x);              // y += x, y float32, x float32 or bfloat16, same shape
Tensor cast(const Tensor& x, DType dtype);                    // a new tensor, also when the type is the same
void copy_into(const Tensor& y, const Tensor& x);             // y[...] = x, same shape, any types
void fill(const Tensor& y, double value);

}  // namespace llmcore
