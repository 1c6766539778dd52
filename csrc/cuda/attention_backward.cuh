// The way back through attention, for both types of element: two kernels, so that no sum needs an order among blocks.
//
//   gradients of the keys and values   a block has rows of keys and goes along the queries that see them, head by head
//   gradients of the queries           a block has rows of queries and goes along the keys that they see
//
// Both compute, for their rows and tiles of columns, the probabilities P and the gradients dS of the scores again, from
// lse and from delta = out . dout; the scores are transposed in the first. Then, with the mask's factors in M,
//
//   dv += (P M)^T dout     dk += scale dS^T q     dq += scale dS k     dS = P (M dout v^T - delta)
//
// That is seven products. Five would do if the first kernel added dS k to float sums of dq, each block of keys in its
// turn. But for 128 x 128 scores of a head of 64 those are 32 KB to read and 32 KB to write, for which an A100's
// second-level cache, at some 45 bytes per nanosecond and multiprocessor, needs the 1.5 microseconds in which the
// tensor cores do both products; and blocks would wait for each other. (Counted, not measured.)
#pragma once

#include "cuda/attention_variants.cuh"

namespace llmcore {

template <class T>
struct Backward {
    T *dq, *dk, *dv;
    const T *dout, *q, *k, *v;
    RowStatistics statistics;
    AttentionProblem problem;
    DropoutMask mask;
    float scale_log2;
};

template <class T>
Backward<T> backward_arguments(const Cuda& cuda, T* dq, T* dk, T* dv, const T* dout, const T* q, const T* k, const T* v,
                               const RowStatistics& statistics, const AttentionProblem& p) {
    return {dq, dk, dv, dout, q, k, v, statistics, p, dropout_mask(cuda, p), p.scale * kLog2E};
}

// What a block does: its rows, and step by step the tiles of columns that see them or are seen by them.
template <bool kRowsAreKeys, int kRows, int kColumns>
struct BackwardBlock {
    int b, kv, first_head;  // first_head: the only one where rows are queries, else the first of the group
    int row;
    int first_column, columns;  // of every head; in tiles: the columns that are neither before nor after all that count
    int steps;
    Visible visible;

    LLMCORE_DEVICE BackwardBlock(const AttentionProblem& p, int block) {
        const int Tq = int(p.Tq), Tk = int(p.Tk), group = int(p.NH / p.NKV);
        const int tiles = ((kRowsAreKeys ? Tk : Tq) + kRows - 1) / kRows, heads = int(kRowsAreKeys ? p.NKV : p.NH);
        const int head = block / tiles % heads, tile = block % tiles;
        b = block / tiles / heads;
        kv = kRowsAreKeys ? head : head / group;
        first_head = kRowsAreKeys ? head * group : head;
        visible = visible_keys(p, b);
        int end_column;
        if constexpr (kRowsAreKeys) {  // the first keys are seen by the most queries: their blocks begin first
            row = tile * kRows;
            const int first_key = most(row, visible.begin);
            first_column = most(0, first_key - visible.diagonal + 1);
            end_column = first_key < least(row + kRows, visible.end) ? Tq : 0;
        } else {  // the last queries see the most keys
            row = (tiles - 1 - tile) * kRows;
            first_column = visible.begin;
            end_column = visible.end_of(least(row + kRows, Tq) - 1);
        }
        first_column = first_column / kColumns * kColumns;
        columns = end_column > first_column ? (end_column - first_column + kColumns - 1) / kColumns : 0;
        steps = columns * (kRowsAreKeys ? group : 1);
    }

    LLMCORE_DEVICE int head_of(int step) const { return first_head + step / columns; }
    LLMCORE_DEVICE int column_of(int step) const { return first_column + step % columns * kColumns; }

    // Which query and which key an element of a tile belongs to.
    LLMCORE_DEVICE bool sees(int of_row, int column) const {
        return kRowsAreKeys ? visible.sees(column, of_row) : visible.sees(of_row, column);
    }

    // Whether all of n rows are visible in all columns of a tile, or none in any.
    LLMCORE_DEVICE bool sees_all(int first_row, int n, int column) const {
        const int key = kRowsAreKeys ? first_row : column, query = kRowsAreKeys ? column : first_row;
        return key >= visible.begin && key + (kRowsAreKeys ? n : kColumns) <= visible.end_of(query);
    }
    LLMCORE_DEVICE bool sees_none(int first_row, int n, int column) const {
        const int key = kRowsAreKeys ? first_row : column,
                  last = (kRowsAreKeys ? column + kColumns : first_row + n) - 1;
        return key >= visible.end_of(last) || key + (kRowsAreKeys ? n : kColumns) <= visible.begin;
    }

    // The number of the mask's first element of a tile, in Philox's order.
    LLMCORE_DEVICE uint64_t mask_element(const AttentionProblem& p, int step) const {
        const int query = kRowsAreKeys ? column_of(step) : row, key = kRowsAreKeys ? row : column_of(step);
        const uint64_t of_row = (uint64_t(b) * uint64_t(p.NH) + uint64_t(head_of(step))) * uint64_t(p.Tq);
        return (of_row + uint64_t(query)) * uint64_t(p.Tk) + uint64_t(key);
    }
};

}  // namespace llmcore
