// Embedding of Tensors: checks, allocates, dispatches. Formulas in kernels/embedding.h. An id outside its table throws
// std::out_of_range (IndexError), naming the id and the size of the table.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace llmcore {

// ids (...) int32, weight (V, C) -> (..., C).
Tensor embedding_forward(const Tensor& ids, const Tensor& weight);

// ids (B, T), positions (B, T) int32 or none (0 .. T-1), token_weight (V, C), position_weight (P, C) -> (B, T, C).
Tensor token_position_embedding_forward(const Tensor& ids, std::optional<Tensor> positions, const Tensor& token_weight,
                                        const Tensor& position_weight);

// dweight (V, C) float32 += dy (..., C) summed by ids.
void embedding_backward(const Tensor& dweight, const Tensor& dy, const Tensor& ids);

// The same for positions 0 .. T-1: dweight (P, C) float32, dy (B, T, C).
void position_embedding_backward(const Tensor& dweight, const Tensor& dy);

}  // namespace llmcore
