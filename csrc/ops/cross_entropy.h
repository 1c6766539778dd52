// Cross-entropy losses of Tensors: checks, allocates, dispatches. Formulas in kernels/cross_entropy.h. The linear forms
// take logits = x weight^T in chunks of rows, so the logits never exist as a whole; a chunk's are float32.
//
// Common arguments: targets (...) int32, ids in [0, V) or ignore_index, anything else throws std::out_of_range;
// num_items, if given, replaces the number of targets that are not ignored as the divisor of the sum.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace llmcore {

struct CrossEntropyOptions {
    int32_t ignore_index;
    float label_smoothing;
    double num_items;  // 0: count the targets
};

CrossEntropyOptions cross_entropy_options(int32_t ignore_index, float label_smoothing, std::optional<double> num_items);

// logits (..., V) -> loss () float32, lse (...) and scale (1), which the backward pass needs.
std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const Tensor& logits, const Tensor& targets,
                                                         const CrossEntropyOptions& options);

// dloss () float32 -> dlogits (..., V).
Tensor cross_entropy_backward(const Tensor& dloss, const Tensor& logits, const Tensor& lse, const Tensor& scale,
                              const Tensor& targets, const CrossEntropyOptions& options);

// x (..., C), weight (V, C) -> loss () float32, lse (...), scale (1).
std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_forward(const Tensor& x, const Tensor& weight,
                                                                const Tensor& targets,
                                                                const CrossEntropyOptions& options);

// -> dx (..., C), if needs_dx; dweight (V, C) float32, if given, is added to, or overwritten without `accumulate`.
// Computes the logits again.
std::optional<Tensor> linear_cross_entropy_backward(const Tensor& dloss, const Tensor& x, const Tensor& weight,
                                                    const Tensor& lse, const Tensor& scale, const Tensor& targets,
                                                    std::optional<Tensor> dweight, bool needs_dx,
                                                    const CrossEntropyOptions& options, bool accumulate = true);

// Both passes at once, for a gradient of 1: -> loss, dx if needs_dx; dweight as above.
std::tuple<Tensor, std::optional<Tensor>> linear_cross_entropy_fused(const Tensor& x, const Tensor& weight,
                                                                     const Tensor& targets,
                                                                     std::optional<Tensor> dweight, bool needs_dx,
                                                                     const CrossEntropyOptions& options,
                                                                     bool accumulate = true);

// -> the loss of every target (...) float32, 0 where it is ignored.
Tensor linear_cross_entropy_per_token(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                      int32_t ignore_index);

}  // namespace llmcore
