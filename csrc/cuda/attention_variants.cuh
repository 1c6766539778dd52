// The kernels behind csrc/kernels/attention.h, each started by one function; attention.cu chooses. They take any
// problem without zeros in B, NH and Tq (backward: and Tk), whose sizes and numbers of tiles are below 2^31.
#pragma once

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/attention_mask.cuh"
#include "cuda/launch.cuh"
#include "kernels/attention.h"

namespace llmcore {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// bf16 operands by mma.sync, float operands by multiply-adds; sums and softmax are float in both.
void attention_forward_sm80(const Cuda& cuda, bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                            const AttentionProblem& problem);
void attention_forward_simt(const Cuda& cuda, float* out, float* lse, const float* q, const float* k, const float* v,
                            const AttentionProblem& problem);

// What the backward kernels want to know of every query, both (B, NH, Tq):
//   lse2   log2(e) * lse, and infinity where no key is visible: every probability is then 2^-infinity
//   delta  the sum over keys of P * dP, which equals out . dout
struct RowStatistics {
    const float *lse2, *delta;
};

void attention_backward_sm80(const Cuda& cuda, bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q,
                             const bf16* k, const bf16* v, const RowStatistics& statistics,
                             const AttentionProblem& problem);
void attention_backward_simt(const Cuda& cuda, float* dq, float* dk, float* dv, const float* dout, const float* q,
                             const float* k, const float* v, const RowStatistics& statistics,
                             const AttentionProblem& problem);

// Throws std::invalid_argument or the like for what the kernels cannot count; the op's name begins the sentence.
void check_attention_sizes(const char* op, const AttentionProblem& problem);

constexpr int64_t tiles_of_rows(int64_t rows, int64_t tile) {
    return (rows + tile - 1) / tile;
}

}  // namespace llmcore
