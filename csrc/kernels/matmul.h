// Matrix products, and what is fused onto them.
//
//   product[m, n] = sum over k of op(a)[m, k] * op(b)[k, n]
//   y             = residual + activation(product + bias)      forward
//   y             = product * activation'(slope_at)            the gradient on its way back through an activation
//   dbias[n]     += sum over m of y[m, n]
//
// Products and sums are float whatever the storage; a result is rounded once. The CPU levels with bf16 multipliers take
// subnormal numbers for zero, and split a float operand beside a bf16 one into two bf16 (relative error 2^-17). Every
// element of y is summed in an order that depends on K alone: not on M, N, the other elements or the number of threads.
// So a row of y has the same bits alone and in a batch. On CUDA that holds for K below 512; a longer sum may be cut
// into parts, added in their order, where y has too few tiles for the device: by batch, M, N, K and the number of
// multiprocessors, so that the same problem has the same bits on every GPU of one model. Only where deterministic
// results are not asked for (core/determinism.h) may a float y without an epilogue be added up in any order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/activation.h"

namespace llmcore {

// op(a) is (M, K): a is stored as (M, K), or as (K, M) with transpose_a. op(b) is (K, N): (K, N), or (N, K) with
// transpose_b. All of it `batch` times: a_step and b_step are the elements from one matrix to the next, 0 where all
// share one. Any size may be 0; a sum over nothing is 0.
struct MatmulProblem {
    int64_t batch, M, N, K;
    bool transpose_a = false, transpose_b = false;
    int64_t a_step = 0, b_step = 0;
    bool accumulate = false;  // y += instead of y =

    // Elements from one row of a, as it is stored, to the next, and likewise of y (and of the epilogue's matrices of
    // its shape); 0 where rows follow one another.
    int64_t a_row_step = 0, y_row_step = 0;

    int64_t a_row() const { return a_row_step != 0 ? a_row_step : transpose_a ? M : K; }
    int64_t y_row() const { return y_row_step != 0 ? y_row_step : N; }
};

// What follows a product, in one of two directions. Each pointer may be null.
//
// Forward: bias (N); pre_activation, residual (batch, M, N). pre_activation receives product + bias.
//
// Backward, where slope_at or dbias is given (then bias, pre_activation and residual are null, batch is 1 and y is not
// accumulated): slope_at (M, N) is what `activation` was taken of, and is not read for Activation::kNone. dbias (N)
// is added to: the float values of y, before they are rounded, in an order that depends on M alone, on CUDA on the size
// of tiles as well, which follows from M, N and the number of multiprocessors.
template <class T>
struct MatmulEpilogue {
    const T* bias = nullptr;
    Activation activation = Activation::kNone;
    T* pre_activation = nullptr;
    const T* residual = nullptr;
    const T* slope_at = nullptr;
    float* dbias = nullptr;

    bool is_backward() const { return slope_at != nullptr || dbias != nullptr; }
};

// y (batch, M, N).
template <class Backend, class Out, class A, class B>
void matmul(Backend, Out* y, const A* a, const B* b, const MatmulProblem& problem, const MatmulEpilogue<Out>& epilogue,
            float* workspace);

// Floats of workspace: packed blocks of a and b and a tile of sums for every thread; with dbias, partial sums for it.
template <class Backend>
size_t matmul_workspace(Backend, const MatmulProblem& problem, bool with_dbias = false);

// Back through activation(product + bias): dpre (M, N) = dy * activation'(pre), dbias (N) float += column sums of that.
// For Activation::kNone pre is not read and dpre, being dy, is not written. dpre and dbias may be null.
template <class Backend, class T>
void bias_activation_backward(Backend, T* dpre, float* dbias, const T* dy, const T* pre, float* workspace, int64_t M,
                              int64_t N, Activation activation);

// Floats of workspace: partial column sums.
template <class Backend>
size_t bias_activation_backward_workspace(Backend, int64_t M, int64_t N);

}  // namespace llmcore
