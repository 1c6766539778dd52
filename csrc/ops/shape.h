// Rearranging Tensors of any type. Kernels in kernels/shape.h.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace llmcore {

// Axis i of the result is axis axes[i] of x; up to 5 dimensions; negative axes count from the end.
Tensor permute(const Tensor& x, const std::vector<int64_t>& axes);

// One after the other along `axis`; the other sizes and the types are equal.
Tensor concat_tensors(const std::vector<Tensor>& tensors, int64_t axis);

// Pieces of x along `axis` of the given sizes, which add up to the size of that axis. Copies.
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t axis);

}  // namespace llmcore
