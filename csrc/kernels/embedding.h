// Rows of a table, chosen by id: y[n] = weight[ids[n]] (+ position_weight[positions[n]]).
//
// weight (V, C), position_weight (P, C), ids and positions (N) int32, y (N, C). Every id is inside its table: the op
// has checked that. With position_weight but without positions, row n is at position n % T.
#pragma once

#include <cstdint>

namespace llmcore {

template <class Backend, class T>
void embedding_forward(Backend, T* y, const int32_t* ids, const int32_t* positions, const T* weight,
                       const T* position_weight, int64_t N, int64_t T_size, int64_t C);

// dweight[ids[n]] += dy[n], float, for n = 0, 1, ... in this order. ids null: row n % T, as for positions.
template <class Backend, class T>
void embedding_backward(Backend, float* dweight, const T* dy, const int32_t* ids, int64_t N, int64_t T_size, int64_t C);

}  // namespace llmcore
