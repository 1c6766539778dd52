// Activations of Tensors: checks, allocates, dispatches. Formulas in kernels/activation.h.
#pragma once

#include <string>
#include <tuple>

#include "core/tensor.h"

namespace llmcore {

// x of any shape, float32 or bfloat16 -> y like x. Names in core/activation.h.
Tensor activation_forward(const Tensor& x, const std::string& activation);
Tensor activation_backward(const Tensor& dy, const Tensor& x, const std::string& activation);

Tensor sigmoid_forward(const Tensor& x);
Tensor sigmoid_backward(const Tensor& dy, const Tensor& y);

// gate, up of one shape and float type -> y; backward -> dgate, dup.
Tensor swiglu_forward(const Tensor& gate, const Tensor& up);
std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& dy, const Tensor& gate, const Tensor& up);

}  // namespace llmcore
