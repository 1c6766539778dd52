// Layer normalisation on the CPU: one task per block of rows; two passes over a row, because the one-pass variance
// E[x^2] - E[x]^2 cancels when |mean| >> std.
#include "kernels/layernorm.h"

#include <cmath>
#include <cstring>

#include "core/thread_pool.h"
#include "cpu/row_blocks.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kRowsPerTask = 16;

// ----------------------------------------------------------------------------------------------------------------
// kernels

template <class T>
void forward_row(T* y, T* total, float* mean_n, float* rstd_n, const T* x, const T* residual, const T* weight,
                 const T* bias, int64_t C, float epsilon) {
    if (residual != nullptr) {
        for_each_vector(C, [&](auto at) { at.store(total, at.load(x) + at.load(residual)); });
        x = total;  // as stored, so that forward and backward see the same rounding
    }
    Vec sums{};
    for_each_vector(C, [&](auto at) { sums += at.load(x); });
    float mean = sum(sums) / static_cast<float>(C);
    Vec squares{};
    for_each_vector(C, [&](auto at) {
        Vec centred = at.load(x, mean) - mean;
        squares += centred * centred;
    });
    float rstd = 1.0f / std::sqrt(sum(squares) / static_cast<float>(C) + epsilon);
    for_each_vector(C, [&](auto at) {
        Vec value = (at.load(x) - mean) * rstd * at.load(weight);
        at.store(y, bias ? value + at.load(bias) : value);
    });
    if (mean_n != nullptr) *mean_n = mean;
    if (rstd_n != nullptr) *rstd_n = rstd;
}

// With n = (x - mean) * rstd and g = dy * weight:  dx = rstd * (g - mean(g) - n * mean(g * n)).
template <class T>
void backward_row(T* dx, float* dweight, float* dbias, const T* dy, const T* dsum, const T* x, const T* weight,
                  float mean, float rstd, int64_t C) {
    Vec g_sums{}, gn_sums{};
    for_each_vector(C, [&](auto at) {
        Vec n = (at.load(x, mean) - mean) * rstd, g_out = at.load(dy), g = g_out * at.load(weight);
        g_sums += g;
        gn_sums += g * n;
        if (dweight != nullptr) at.store(dweight, at.load(dweight) + g_out * n);
        if (dbias != nullptr) at.store(dbias, at.load(dbias) + g_out);
    });
    float g_mean = sum(g_sums) / static_cast<float>(C), gn_mean = sum(gn_sums) / static_cast<float>(C);
    for_each_vector(C, [&](auto at) {
        Vec n = (at.load(x) - mean) * rstd, g = at.load(dy) * at.load(weight);
        Vec value = rstd * (g - g_mean - n * gn_mean);
        at.store(dx, dsum ? value + at.load(dsum) : value);
    });
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void layernorm_forward(Backend, T* y, T* sum, float* mean, float* rstd, const T* x, const T* residual, const T* weight,
                       const T* bias, int64_t N, int64_t C, float epsilon) {
    parallel_for(N, kRowsPerTask, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n)
            forward_row(y + n * C, sum ? sum + n * C : nullptr, mean ? mean + n : nullptr, rstd ? rstd + n : nullptr,
                        x + n * C, residual ? residual + n * C : nullptr, weight, bias, C, epsilon);
    });
}

template <class Backend, class T>
void layernorm_backward(Backend, T* dx, float* dweight, float* dbias, const T* dy, const T* dsum, const T* x,
                        const T* weight, const float* mean, const float* rstd, float* workspace, int64_t N, int64_t C) {
    int64_t blocks = row_blocks(N);
    parallel_tasks(blocks, [=](int64_t block, int) {
        float* dweight_b = dweight ? workspace + 2 * block * C : nullptr;
        float* dbias_b = dbias ? workspace + (2 * block + 1) * C : nullptr;
        std::memset(workspace + 2 * block * C, 0, 2 * C * sizeof(float));
        for (int64_t n = N * block / blocks; n < N * (block + 1) / blocks; ++n)
            backward_row(dx + n * C, dweight_b, dbias_b, dy + n * C, dsum ? dsum + n * C : nullptr, x + n * C, weight,
                         mean[n], rstd[n], C);
    });
    if (dweight != nullptr) add_row_blocks(dweight, workspace, blocks, 2 * C, C);
    if (dbias != nullptr) add_row_blocks(dbias, workspace + C, blocks, 2 * C, C);
}

template <class Backend>
size_t layernorm_backward_workspace(Backend, int64_t N, int64_t C) {
    return static_cast<size_t>(2 * row_blocks(N) * C);
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(layernorm_forward, Cpu, float)
LLMCORE_INSTANTIATE(layernorm_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(layernorm_backward, Cpu, float)
LLMCORE_INSTANTIATE(layernorm_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(layernorm_backward_workspace, Cpu)

}  // namespace llmcore
