// Scaled dot-product attention with an online softmax (Dao 2023, "FlashAttention-2", arXiv:2307.08691); nothing of size
// Tq x Tk is ever in memory.
//
//   out[b, i, h] = sum over visible j of  P[i, j] * mask[i, j] / (1 - dropout_p) * v[b, j, h / (NH / NKV)]
//   P[i, j] = exp(scale * q[b, i, h] . k[b, j, h / (NH / NKV)] - lse[b, h, i])
//   lse[b, h, i] = log sum over visible j of exp(scale * q . k)      -infinity where no key is visible: out is 0 there
//
// q, out (B, Tq, NH*HS); k, v (B, Tk, NKV*HS); lse (B, NH, Tq) float. Rows of q, k and v are `*_stride` elements apart,
// so all three may lie in one packed (B, T, (NH + 2*NKV)*HS) array; their gradients have the strides of the originals.
// out and dout are contiguous. Sums are in float; the mask is drawn from Philox at element
// ((b*NH + h)*Tq + i)*Tk + j, forward and backward, and never stored.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmcore {

enum class Causal {
    kNone,
    kLastKey,       // the last query sees up to the last key: j <= i + Tk - Tq
    kLastValidKey,  // ... up to the last valid key of its row: j <= i + lengths[b] - Tq
};

struct AttentionProblem {
    int64_t B, NH, NKV, Tq, Tk, HS;
    int64_t q_stride, k_stride, v_stride;
    Causal causal;
    const int32_t* starts;   // (B): the first valid key of each row, or null: 0
    const int32_t* lengths;  // (B): keys from here on are not valid, or null: Tk
    float scale;
    float dropout_p;
    uint64_t seed, offset;  // of the dropout mask
};

template <class Backend, class T>
void attention_forward(Backend, T* out, float* lse, const T* q, const T* k, const T* v, float* workspace,
                       const AttentionProblem& problem);

template <class Backend>
size_t attention_forward_workspace(Backend, const AttentionProblem& problem);  // floats

template <class Backend, class T>
void attention_backward(Backend, T* dq, T* dk, T* dv, const T* dout, const T* q, const T* k, const T* v, const T* out,
                        const float* lse, float* workspace, const AttentionProblem& problem);

template <class Backend>
size_t attention_backward_workspace(Backend, const AttentionProblem& problem);  // floats

// The forward pass for a few queries (generation with a cache): reads every key once, in place, and needs no lse.
// dropout_p is not looked at.
template <class Backend, class T>
void attention_decode(Backend, T* out, const T* q, const T* k, const T* v, float* workspace,
                      const AttentionProblem& problem);

template <class Backend>
size_t attention_decode_workspace(Backend, const AttentionProblem& problem);  // floats

}  // namespace llmcore
