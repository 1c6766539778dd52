// Dropout of a Tensor. Formula in kernels/dropout.h.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace llmcore {

// residual + x * mask / (1 - p), residual of x's shape and type or none; p from 0 to below 1.
Tensor dropout(const Tensor& x, std::optional<Tensor> residual, float p, uint64_t seed, uint64_t offset);

}  // namespace llmcore
