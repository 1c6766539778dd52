// Cross-entropy of softmax(logits) and target ids, with label smoothing as torch defines it (Szegedy et al. 2016,
// arXiv:1512.00567, section 7):
//
//   lse     = log(sum over v of exp(logits[v]))
//   loss    = lse - (1 - smoothing) * logits[target] - smoothing * mean over v of logits[v]
//   dlogits = (softmax(logits) - (1 - smoothing) * [v = target] - smoothing / V) * dloss
//
// logits, dlogits (N, V), of which rows begin `row_step` and `dlogits_row_step` >= V elements apart (what lies between
// them is neither read nor written), targets (N) in [0, V) or ignore_index; losses, lse (N) float. A row with
// ignore_index has loss 0 and gradient 0. On CUDA, where the caller learns of a wrong id later, so has a row whose
// target lies outside [0, V).
//
// dlogits may be logits if both are of one type. On the CPU, which goes through a row from its front, a row of bf16
// dlogits may also begin where a row of float logits does (dlogits_row_step = 2 * row_step) and overwrite its first
// half.
#pragma once

#include <cstdint>

namespace llmcore {

template <class Backend, class T>
void cross_entropy_forward(Backend, float* losses, float* lse, const T* logits, const int32_t* targets, int64_t N,
                           int64_t V, int64_t row_step, int32_t ignore_index, float label_smoothing);

// scale (1) = 1 / num_items, or 1 / (number of targets that are not ignored) where num_items is 0. No targets: 0.
template <class Backend>
void cross_entropy_scale(Backend, float* scale, const int32_t* targets, int64_t N, int32_t ignore_index,
                         double num_items);

// loss (1) = scale * sum of losses, added in double, in an order that depends on N alone.
template <class Backend>
void cross_entropy_reduce(Backend, float* loss, const float* losses, const float* scale, int64_t N);

// dlogits = ..., for a gradient dloss (1) of the reduced loss. dloss may be null and is then 1.
template <class Backend, class Out, class T>
void cross_entropy_backward(Backend, Out* dlogits, const float* dloss, const float* scale, const T* logits,
                            const float* lse, const int32_t* targets, int64_t N, int64_t V, int64_t row_step,
                            int64_t dlogits_row_step, int32_t ignore_index, float label_smoothing);

// Both passes for a loss whose gradient is 1, row by row while a row is in the cache. logits are overwritten.
template <class Backend, class Out>
void cross_entropy_forward_backward(Backend, float* losses, float* lse, Out* dlogits, float* logits, const float* scale,
                                    const int32_t* targets, int64_t N, int64_t V, int64_t row_step,
                                    int64_t dlogits_row_step, int32_t ignore_index, float label_smoothing);

}  // namespace llmcore
