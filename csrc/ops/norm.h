// Norms of Tensors: checks, allocates, dispatches. Formulas in kernels/norm.h.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace llmcore {

// The 2-norm of all elements of all tensors (float32, any shapes) together -> (1) float32. 0 for an empty list.
Tensor global_norm(const std::vector<Tensor>& tensors);

// norm (1) float32 -> (1) float32, min(1, max_norm / (norm + 1e-6)): what gradients are multiplied by to be clipped.
Tensor clip_factor(const Tensor& norm, double max_norm);

// x float32 or bfloat16 -> (1) int32, 1 if no element is infinite or NaN, else 0; it stays on the device of x.
Tensor all_finite(const Tensor& x);

}  // namespace llmcore
