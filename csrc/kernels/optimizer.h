// Optimizer steps over flat buffers of n elements, with PyTorch's formulas, so that settings carry over.
//
// T is the type of params. `master`, float, is the weight that is updated; params is its rounding to T. It may be null:
// then params is updated itself, which for T = bf16 wants a Rounding. g = grads * *grad_scale is the gradient;
// grad_scale (1) may be null for 1, and is read where the kernel runs, so that a clip factor never has to travel to the
// host.
#pragma once

#include <cstdint>

namespace llmcore {

// Stochastic rounding of bf16 params that have no master (core/stochastic_rounding.h): steps far smaller than the
// distance of two bf16 numbers, which rounding to nearest would lose, are then made in the mean. Element i takes word
// i % 4 of the Philox block i / 4 of (seed, offset).
struct Rounding {
    bool stochastic = false;
    uint64_t seed = 0, offset = 0;
};

struct AdamWOptions {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    int64_t step;     // from 1
    bool l2 = false;  // weight_decay * weight is added to g (Adam) instead of taken from the weight (AdamW)
};

// Loshchilov, Hutter: "Decoupled weight decay regularization", 2017, arXiv:1711.05101; Kingma, Ba, arXiv:1412.6980.
//   w -= learning_rate * weight_decay * w
//   m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
//   w -= learning_rate / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + epsilon)
template <class Backend, class T>
void adamw_step(Backend, T* params, float* master, float* m, float* v, const float* grads, const float* grad_scale,
                int64_t n, AdamWOptions options, Rounding rounding);

struct SgdOptions {
    double learning_rate, momentum, dampening, weight_decay;
    bool nesterov, first_step;
};

//   g += weight_decay * w
//   buffer = momentum * buffer + (1 - dampening) * g, on the first step buffer = g
//   w -= learning_rate * (g + momentum * buffer if nesterov, else buffer)
// momentum_buffer may be null: then w -= learning_rate * g.
template <class Backend, class T>
void sgd_step(Backend, T* params, float* master, float* momentum_buffer, const float* grads, const float* grad_scale,
              int64_t n, SgdOptions options, Rounding rounding);

struct RmspropOptions {
    double learning_rate, alpha, epsilon, momentum, weight_decay;
};

//   g += weight_decay * w
//   square_avg = alpha * square_avg + (1 - alpha) * g^2
//   buffer = momentum * buffer + g / (sqrt(square_avg) + epsilon)
//   w -= learning_rate * buffer
// momentum_buffer may be null: then w -= learning_rate * g / (sqrt(square_avg) + epsilon).
template <class Backend, class T>
void rmsprop_step(Backend, T* params, float* master, float* square_avg, float* momentum_buffer, const float* grads,
                  const float* grad_scale, int64_t n, RmspropOptions options, Rounding rounding);

}  // namespace llmcore
