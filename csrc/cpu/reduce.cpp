// Sums on the CPU.
#include "kernels/reduce.h"

#include <cstring>

#include "core/thread_pool.h"
#include "cpu/double_sum.h"
#include "cpu/row_blocks.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void sum(Backend, float* y, const T* x, double* workspace, int64_t n, double factor) {
    parallel_for(n, kSumPiece, [=](int64_t begin, int64_t end) {
        workspace[begin / kSumPiece] =
            sum_in_double(end - begin, [=](int64_t i) { return static_cast<double>(to_float(x[begin + i])); });
    });
    double total = 0;
    for (int64_t piece = 0; piece * kSumPiece < n; ++piece) total += workspace[piece];
    *y = static_cast<float>(total * factor);
}

template <class Backend, class T>
void sum_backward(Backend, T* dx, const float* dy, int64_t n, double factor) {
    T value = from_float<T>(static_cast<float>(*dy * factor));
    parallel_for(n, kSumPiece, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) dx[i] = value;
    });
}

template <class Backend, class T>
void add_column_sums(Backend, float* total, const T* x, float* workspace, int64_t N, int64_t C) {
    int64_t blocks = row_blocks(N);
    parallel_tasks(blocks, [=](int64_t block, int) {
        float* partial = workspace + block * C;
        std::memset(partial, 0, C * sizeof(float));
        for (int64_t n = N * block / blocks; n < N * (block + 1) / blocks; ++n)
            for_each_vector(C, [&](auto at) { at.store(partial, at.load(partial) + at.load(x + n * C)); });
    });
    add_row_blocks(total, workspace, blocks, C, C);
}

template <class Backend>
size_t add_column_sums_workspace(Backend, int64_t N, int64_t C) {
    return static_cast<size_t>(row_blocks(N) * C);
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(sum, Cpu, float)
LLMCORE_INSTANTIATE(sum, Cpu, bf16)
LLMCORE_INSTANTIATE(sum_backward, Cpu, float)
LLMCORE_INSTANTIATE(sum_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(add_column_sums, Cpu, float)
LLMCORE_INSTANTIATE(add_column_sums, Cpu, bf16)
LLMCORE_INSTANTIATE(add_column_sums_workspace, Cpu)

}  // namespace llmcore
