// Dropout (Srivastava et al. 2014), with the mask as a pure function of (seed, offset, element): never stored, drawn
// again in the backward pass.
//
//   y[i] = residual[i] + x[i] * mask[i] / (1 - p)      residual may be null: 0
//   mask[i] = word i % 4 of Philox block i / 4 is at least p * 2^32
//
// The backward pass is the same function of dy, without a residual. x, residual, y (n); y may be x or residual.
#pragma once

#include <cstdint>

namespace llmcore {

template <class Backend, class T>
void dropout(Backend, T* y, const T* x, const T* residual, int64_t n, float p, uint64_t seed, uint64_t offset);

}  // namespace llmcore
