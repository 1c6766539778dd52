// Attention of Tensors: checks, allocates, dispatches. Formulas in kernels/attention.h.
#pragma once

#include <optional>
#include <tuple>

#include "core/tensor.h"

namespace llmcore {

// What all forms have in common. Without scale: 1 / sqrt(HS). lengths (B) int32, 0 to Tk, or none.
struct AttentionOptions {
    int64_t num_heads, num_kv_heads;
    bool causal = false;
    std::optional<Tensor> lengths;
    std::optional<float> scale;
    float dropout_p = 0.0f;
    uint64_t seed = 0, offset = 0;
};

// q (B, Tq, NH*HS), k, v (B, Tk, NKV*HS) -> out (B, Tq, NH*HS), lse (B, NH, Tq) float32.
std::tuple<Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const AttentionOptions& options);

// -> dq, dk, dv
std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                                      const Tensor& v, const Tensor& out, const Tensor& lse,
                                                      const AttentionOptions& options);

// qkv (B, T, (NH + 2*NKV)*HS), every row q | k | v -> out (B, T, NH*HS), lse (B, NH, T) float32.
std::tuple<Tensor, Tensor> attention_qkv_forward(const Tensor& qkv, const AttentionOptions& options);

// -> dqkv
Tensor attention_qkv_backward(const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                              const AttentionOptions& options);

// q (B, Tq, NH*HS), caches (B, capacity, NKV*HS), starts, lengths (B) int32 -> (B, Tq, NH*HS). lengths count the Tq new
// keys: query i of row b sees the keys starts[b] <= j <= lengths[b] - Tq + i.
Tensor attention_decode(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache, int64_t num_heads,
                        int64_t num_kv_heads, const Tensor& starts, const Tensor& lengths, std::optional<float> scale);

}  // namespace llmcore
