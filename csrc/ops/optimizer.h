// Optimizer steps on Tensors: checks and dispatches. Formulas in kernels/optimizer.h.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace llmcore {

// All change their first tensors in place. params float32 or bfloat16 of any shape; master, grads and the state float32
// of the same shape. bfloat16 params need either master or rounding_seed: without a master they are updated themselves
// and rounded stochastically, by random numbers of (rounding_seed, step, element). grad_scale (1) float32 or none. step
// counts from 1; state starts at zero.
void adamw_step(const Tensor& params, std::optional<Tensor> master, const Tensor& grads, const Tensor& m,
                const Tensor& v, double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                int64_t step, std::optional<Tensor> grad_scale, bool adam_l2, std::optional<uint64_t> rounding_seed);

// momentum_buffer is required if momentum is not 0. Step 1 writes it without reading it.
void sgd_step(const Tensor& params, std::optional<Tensor> master, const Tensor& grads,
              std::optional<Tensor> momentum_buffer, double learning_rate, double momentum, double dampening,
              bool nesterov, double weight_decay, int64_t step, std::optional<Tensor> grad_scale,
              std::optional<uint64_t> rounding_seed);

// momentum_buffer is required if momentum is not 0. The formula does not depend on step; it is taken and checked so
// that the three are called alike.
void rmsprop_step(const Tensor& params, std::optional<Tensor> master, const Tensor& grads, const Tensor& square_avg,
                  std::optional<Tensor> momentum_buffer, double learning_rate, double alpha, double epsilon,
                  double momentum, double weight_decay, int64_t step, std::optional<Tensor> grad_scale,
                  std::optional<uint64_t> rounding_seed);

}  // namespace llmcore
