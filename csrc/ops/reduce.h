// Sums of Tensors: checks, allocates, dispatches. Formulas in kernels/reduce.h.
#pragma once

#include "core/tensor.h"

namespace llmcore {

// x of any shape, float32 or bfloat16 -> () float32, added in double. The mean of no elements is NaN.
Tensor sum(const Tensor& x);
Tensor mean(const Tensor& x);

// dy with one element, float32 -> dx of the given shape and type, every element of it dy (dy / numel for the mean).
Tensor sum_backward(const Tensor& dy, Shape shape, DType dtype);
Tensor mean_backward(const Tensor& dy, Shape shape, DType dtype);

// total (C) float32 += the column sums of x (..., C).
void add_column_sums(const Tensor& total, const Tensor& x);

}  // namespace llmcore
