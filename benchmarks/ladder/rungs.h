// The rungs of the ladder to csrc/cuda/matmul_sm90.cu, which is its top. Each multiplies y (M, N) = a (M, K) b (N, K)^T
// in bf16 with float sums; M and N are multiples of 128, K of 64.
#pragma once

#include "core/backend.h"
#include "core/bf16.h"

namespace llmcore::ladder {

struct Problem {
    int M, N, K;
};

void multiply_by_wgmma(const Cuda& cuda, bf16* y, const bf16* a, const bf16* b, const Problem& p);
void multiply_in_stages(const Cuda& cuda, bf16* y, const bf16* a, const bf16* b, const Problem& p);
void multiply_by_specialists(const Cuda& cuda, bf16* y, const bf16* a, const bf16* b, const Problem& p);

}  // namespace llmcore::ladder
