// Sums. Cuts depend on the sizes only, so the bits do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llmcore {

inline constexpr int64_t kSumPiece = 1 << 16;

// y (1) = factor * sum of x (n), added in double. workspace: one double for each piece of kSumPiece elements.
template <class Backend, class T>
void sum(Backend, float* y, const T* x, double* workspace, int64_t n, double factor);

// dx (n) = factor * dy (1)
template <class Backend, class T>
void sum_backward(Backend, T* dx, const float* dy, int64_t n, double factor);

// total[c] += sum over n of x[n][c]; total (C), x (N, C)
template <class Backend, class T>
void add_column_sums(Backend, float* total, const T* x, float* workspace, int64_t N, int64_t C);

// Floats of workspace.
template <class Backend>
size_t add_column_sums_workspace(Backend, int64_t N, int64_t C);

}  // namespace llmcore
