// Rotary position embedding (Su et al. 2021, "RoFormer", arXiv:2104.09864) in the half-split layout of GPT-NeoX and of
// transformers' Llama: element i of a head forms a pair with element i + R/2.
//
//   y[i]       = x[i] * cos - x[i + R/2] * sin
//   y[i + R/2] = x[i + R/2] * cos + x[i] * sin          cos = cos_table[position, i], sin likewise, i < R/2
//
// x, y (N, heads, HS): N = B*T rows. The first `rotated` heads are rotated and the others copied, so a packed q|k|v
// takes one call with rotated = NH + NKV. R = 2 * half is even and at most HS; elements from R on are copied.
// cos_table, sin_table (P, half) float: frequencies, their scaling and any factor on the result are the caller's.
// positions (N) int32; null: row n is at position n % T. Every position is below P: the op has checked that; on a GPU
// what it found may come to light only after these have run, so there such a row is copied as it is.
#pragma once

#include <cstdint>

namespace llmcore {

struct RopeProblem {
    int64_t N, T, P, heads, rotated, HS, half;
    const int32_t* positions;
    const float* cos_table;
    const float* sin_table;
};

template <class Backend, class T>
void rope_forward(Backend, T* y, const T* x, const RopeProblem& problem);

// dx = ...: the transposed rotation of dy.
template <class Backend, class T>
void rope_backward(Backend, T* dx, const T* dy, const RopeProblem& problem);

}  // namespace llmcore
