// Matrix products of Tensors: checks, allocates, dispatches. Formulas in kernels/matmul.h.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "core/tensor.h"

namespace llmcore {

// a (..., M, K), or (..., K, M) with transpose_a; b (..., K, N), or (..., N, K) with transpose_b; one float type
// -> (..., M, N). The leading dimensions are equal, or one of the two has none and is used for all.
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b);

// y (M, N) float32 += op(a) op(b) for 2-D a and b of one float type: the gradient of a weight. Without `accumulate` it
// is y =, which spares reading y, and whoever made it zeros before.
void matmul_add(const Tensor& y, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b,
                bool accumulate = true);

// x (..., K), weight (N, K) with transpose_weight, else (K, N), bias (N), residual (..., N), all of one float type
// -> y (..., N) = residual + activation(x weight + bias), and x weight + bias if keep_pre_activation. For the names of
// activations see core/activation.h.
std::tuple<Tensor, std::optional<Tensor>> linear_forward(const Tensor& x, const Tensor& weight,
                                                         std::optional<Tensor> bias, const std::string& activation,
                                                         std::optional<Tensor> residual, bool transpose_weight,
                                                         bool keep_pre_activation);

// dx of a linear layer, taken back through the activation that made x: dy (..., N), weight (N, K) with
// transpose_weight, else (K, N), pre (..., K) -> dpre (..., K) = (dy weight^T) * activation'(pre), of one float type.
// dbias (K) float32 is added to, if given: the sums of dpre over its rows.
Tensor linear_activation_backward(const Tensor& dy, const Tensor& weight, const Tensor& pre,
                                  const std::string& activation, bool transpose_weight, std::optional<Tensor> dbias);

// dy, pre (..., N) -> dpre (..., N), the gradient before the activation; dbias (N) float32 is added to, if given. With
// activation "" dpre is dy itself and pre is not needed.
Tensor bias_activation_backward(const Tensor& dy, std::optional<Tensor> pre, const std::string& activation,
                                std::optional<Tensor> dbias);

}  // namespace llmcore
