// csrc/kernels/attention.h on CUDA: which kernel (cuda/attention_variants.cuh), and what the way back has to know of
// every query before it begins. Decoding is in attention_decode.cu.
#include <climits>

#include "core/check.h"
#include "cuda/attention_variants.cuh"
#include "cuda/vec.cuh"
#include "cuda/warp.cuh"

namespace llmcore {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// statistics of the queries

constexpr int kTeam = 8, kThreads = 256;  // lanes of a row: a head of 64 bf16 is one vector for each

// lse2 and delta (B, NH, Tq) of RowStatistics; a team of lanes to a row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_statistics_kernel(float* lse2, float* delta, const T* out, const T* dout, const float* lse,
                                AttentionProblem p, bool whole_vectors) {
    constexpr int kPer = kPerVector<T>;
    const int64_t row = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kTeam, rows = p.B * p.NH * p.Tq;
    const int member = int(threadIdx.x) % kTeam, HS = int(p.HS);
    float sum = 0.0f;
    if (row < rows) {
        const int64_t head = row / p.Tq, at = ((head / p.NH * p.Tq + row % p.Tq) * p.NH + head % p.NH) * HS;
        if (whole_vectors)
            for (int column = member * kPer; column < HS; column += kTeam * kPer) {
                float a[kPer], b[kPer];
                load_vector(a, out + at + column);
                load_vector(b, dout + at + column);
#pragma unroll
                for (int i = 0; i < kPer; ++i) sum += a[i] * b[i];
            }
        else
            for (int column = member; column < HS; column += kTeam)
                sum += to_float(out[at + column]) * to_float(dout[at + column]);
    }
#pragma unroll
    for (int bits = kTeam / 2; bits; bits /= 2) sum += __shfl_xor_sync(kAllLanes, sum, bits);
    if (row >= rows || member > 0) return;
    delta[row] = sum;
    lse2[row] = lse[row] == -INFINITY ? INFINITY : lse[row] * kLog2E;
}

template <class T>
RowStatistics row_statistics(const Cuda& cuda, float* workspace, const T* out, const T* dout, const float* lse,
                             const AttentionProblem& p) {
    const int64_t rows = p.B * p.NH * p.Tq;
    if (rows == 0) return {nullptr, nullptr};
    const bool whole = reinterpret_cast<uintptr_t>(out) % 16 == 0 && reinterpret_cast<uintptr_t>(dout) % 16 == 0 &&
                       p.HS % kPerVector<T> == 0;
    const auto blocks = static_cast<unsigned>(tiles_of_rows(rows * kTeam, kThreads));
    launch({blocks, kThreads, 0, cuda.stream}, attention_statistics_kernel<T>, workspace, workspace + rows, out, dout,
           lse, p, whole);
    return {workspace, workspace + rows};
}

}  // namespace

// Kernels count positions and blocks in 32 bits, elements in 64. The smallest tiles have 16 rows.
void check_attention_sizes(const char* op, const AttentionProblem& p) {
    const int64_t most = INT_MAX / 4, rows = p.Tq > p.Tk ? p.Tq : p.Tk;
    LLMCORE_CHECK(p.Tq <= most && p.Tk <= most, op, ": on CUDA Tq and Tk must be below 2^29, got ", p.Tq, " and ",
                  p.Tk);
    LLMCORE_CHECK(p.B * p.NH <= INT_MAX / (rows / 4 + 1), op,
                  ": on CUDA B * NH * T / 4 must be below 2^31, got B = ", p.B, ", NH = ", p.NH, ", T = ", rows);
}

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void attention_forward(Backend backend, T* out, float* lse, const T* q, const T* k, const T* v, float*,
                       const AttentionProblem& problem) {
    if (problem.B == 0 || problem.Tq == 0) return;
    check_attention_sizes("attention_forward", problem);
    if constexpr (std::is_same_v<T, bf16>)
        attention_forward_sm80(backend, out, lse, q, k, v, problem);
    else
        attention_forward_simt(backend, out, lse, q, k, v, problem);
}

template <class Backend>
size_t attention_forward_workspace(Backend, const AttentionProblem&) {
    return 0;
}

template <class Backend, class T>
void attention_backward(Backend backend, T* dq, T* dk, T* dv, const T* dout, const T* q, const T* k, const T* v,
                        const T* out, const float* lse, float* workspace, const AttentionProblem& problem) {
    if (problem.B == 0) return;
    check_attention_sizes("attention_backward", problem);
    const RowStatistics statistics = row_statistics(backend, workspace, out, dout, lse, problem);
    if constexpr (std::is_same_v<T, bf16>)
        attention_backward_sm80(backend, dq, dk, dv, dout, q, k, v, statistics, problem);
    else
        attention_backward_simt(backend, dq, dk, dv, dout, q, k, v, statistics, problem);
}

template <class Backend>
size_t attention_backward_workspace(Backend, const AttentionProblem& p) {
    return static_cast<size_t>(2 * p.B * p.NH * p.Tq);  // RowStatistics
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(attention_forward, Cuda, float)
LLMCORE_INSTANTIATE(attention_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(attention_forward_workspace, Cuda)
LLMCORE_INSTANTIATE(attention_backward, Cuda, float)
LLMCORE_INSTANTIATE(attention_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(attention_backward_workspace, Cuda)

}  // namespace llmcore
