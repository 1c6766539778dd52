// Rows of a table, chosen by id: y[n] = weight[ids[n]] (+ position_weight[positions[n]]).
//
// weight (V, C), position_weight (P, C), ids and positions (N) int32, y (N, C). With position_weight but without
// positions, row n is at position n % T. Every id is inside its table: the op has checked that; on a GPU what it found
// may come to light only after these have run, so there a row that is not in its table is taken for zeros, and its
// gradient goes nowhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmcore {

template <class T>
struct EmbeddingTable {
    const T* weight;
    int64_t rows;
};

template <class Backend, class T>
void embedding_forward(Backend, T* y, const int32_t* ids, const int32_t* positions, EmbeddingTable<T> tokens,
                       EmbeddingTable<T> positions_table, int64_t N, int64_t T_size, int64_t C);

// Scratch of the backward pass: elements of each type.
struct EmbeddingWorkspace {
    size_t indices, sums;
};

// dweight (V, C) float: dweight[ids[n]] += dy[n], the rows of one id in an order that follows from the ids alone (on
// the CPU n = 0, 1, ...). ids null: row n % T, as for positions.
template <class Backend, class T>
void embedding_backward(Backend, float* dweight, const T* dy, const int32_t* ids, int32_t* indices, float* sums,
                        int64_t N, int64_t T_size, int64_t V, int64_t C);

template <class Backend>
EmbeddingWorkspace embedding_backward_workspace(Backend, const int32_t* ids, int64_t N, int64_t C);

}  // namespace llmcore
