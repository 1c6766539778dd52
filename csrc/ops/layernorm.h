// Layer normalisation of Tensors: checks, allocates, dispatches. Formulas in kernels/layernorm.h.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace llmcore {

// x (..., C), weight (C), bias (C) or none, all of one float type -> y (..., C), mean (...), rstd (...) float32.
std::tuple<Tensor, Tensor, Tensor> layernorm_forward(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                                     float epsilon);

// -> sum = x + residual, y = layernorm(sum), mean, rstd.
std::tuple<Tensor, Tensor, Tensor, Tensor> residual_layernorm_forward(const Tensor& x, const Tensor& residual,
                                                                      const Tensor& weight, std::optional<Tensor> bias,
                                                                      float epsilon);

// -> dx. dweight, dbias (C) float32 are added to, if given. dsum: see kernels/layernorm.h.
Tensor layernorm_backward(const Tensor& dy, std::optional<Tensor> dsum, const Tensor& x, const Tensor& weight,
                          const Tensor& mean, const Tensor& rstd, std::optional<Tensor> dweight,
                          std::optional<Tensor> dbias);

}  // namespace llmcore
