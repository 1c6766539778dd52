// Root mean square normalisation of Tensors: checks, allocates, dispatches. Formulas in kernels/rmsnorm.h.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace llmcore {

// x (..., C), weight (C), of one float type -> y (..., C), rstd (...) float32.
std::tuple<Tensor, Tensor> rmsnorm_forward(const Tensor& x, const Tensor& weight, float epsilon);

// -> sum = x + residual, y = rmsnorm(sum), rstd.
std::tuple<Tensor, Tensor, Tensor> residual_rmsnorm_forward(const Tensor& x, const Tensor& residual,
                                                            const Tensor& weight, float epsilon);

// -> dx. dweight (C) float32 is added to, if given. dsum: see kernels/rmsnorm.h.
Tensor rmsnorm_backward(const Tensor& dy, std::optional<Tensor> dsum, const Tensor& x, const Tensor& weight,
                        const Tensor& rstd, std::optional<Tensor> dweight);

}  // namespace llmcore
