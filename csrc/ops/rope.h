// Rotary position embedding of Tensors: checks, allocates, dispatches. Formulas in kernels/rope.h.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace llmcore {

// x (B, T, heads * head_size), of which the first `rotated` heads are rotated; cos_table, sin_table (P, R/2) float32;
// positions (B, T) int32, 0 .. T-1 if not given -> y like x. Throws std::out_of_range for positions outside the tables.
Tensor rope_forward(const Tensor& x, const Tensor& cos_table, const Tensor& sin_table, std::optional<Tensor> positions,
                    int64_t head_size, int64_t rotated);

// -> dx.
Tensor rope_backward(const Tensor& dy, const Tensor& cos_table, const Tensor& sin_table,
                     std::optional<Tensor> positions, int64_t head_size, int64_t rotated);

}  // namespace llmcore
