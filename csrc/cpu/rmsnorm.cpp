// Root mean square normalisation on the CPU: one task per block of rows.
#include "kernels/rmsnorm.h"

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
void forward_row(T* y, T* total, float* rstd_n, const T* x, const T* residual, const T* weight, int64_t C,
                 float epsilon) {
    if (residual != nullptr) {
        for_each_vector(C, [&](auto at) { at.store(total, at.load(x) + at.load(residual)); });
        x = total;  // as stored, so that forward and backward see the same rounding
    }
    Vec squares{};
    for_each_vector(C, [&](auto at) {
        Vec value = at.load(x);
        squares += value * value;
    });
    float rstd = 1.0f / std::sqrt(sum(squares) / static_cast<float>(C) + epsilon);
    for_each_vector(C, [&](auto at) { at.store(y, at.load(x) * rstd * at.load(weight)); });
    if (rstd_n != nullptr) *rstd_n = rstd;
}

// With n = x * rstd and g = dy * weight:  dx = rstd * (g - n * mean(g * n)).
template <class T>
void backward_row(T* dx, float* dweight, const T* dy, const T* dsum, const T* x, const T* weight, float rstd,
                  int64_t C) {
    Vec gn_sums{};
    for_each_vector(C, [&](auto at) {
        Vec n = at.load(x) * rstd, g_out = at.load(dy);
        gn_sums += g_out * at.load(weight) * n;
        if (dweight != nullptr) at.store(dweight, at.load(dweight) + g_out * n);
    });
    float gn_mean = sum(gn_sums) / static_cast<float>(C);
    for_each_vector(C, [&](auto at) {
        Vec n = at.load(x) * rstd, g = at.load(dy) * at.load(weight);
        Vec value = rstd * (g - n * gn_mean);
        at.store(dx, dsum ? value + at.load(dsum) : value);
    });
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void rmsnorm_forward(Backend, T* y, T* sum, float* rstd, const T* x, const T* residual, const T* weight, int64_t N,
                     int64_t C, float epsilon) {
    parallel_for(N, kRowsPerTask, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n)
            forward_row(y + n * C, sum ? sum + n * C : nullptr, rstd ? rstd + n : nullptr, x + n * C,
                        residual ? residual + n * C : nullptr, weight, C, epsilon);
    });
}

template <class Backend, class T>
void rmsnorm_backward(Backend, T* dx, float* dweight, const T* dy, const T* dsum, const T* x, const T* weight,
                      const float* rstd, float* workspace, int64_t N, int64_t C) {
    int64_t blocks = row_blocks(N);
    parallel_tasks(blocks, [=](int64_t block, int) {
        float* dweight_b = dweight ? workspace + block * C : nullptr;
        if (dweight_b != nullptr) std::memset(dweight_b, 0, C * sizeof(float));
        for (int64_t n = N * block / blocks; n < N * (block + 1) / blocks; ++n)
            backward_row(dx + n * C, dweight_b, dy + n * C, dsum ? dsum + n * C : nullptr, x + n * C, weight, rstd[n],
                         C);
    });
    if (dweight != nullptr) add_row_blocks(dweight, workspace, blocks, C, C);
}

template <class Backend>
size_t rmsnorm_backward_workspace(Backend, int64_t N, int64_t C) {
    return static_cast<size_t>(row_blocks(N) * C);
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(rmsnorm_forward, Cpu, float)
LLMCORE_INSTANTIATE(rmsnorm_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(rmsnorm_backward, Cpu, float)
LLMCORE_INSTANTIATE(rmsnorm_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(rmsnorm_backward_workspace, Cpu)

}  // namespace llmcore
