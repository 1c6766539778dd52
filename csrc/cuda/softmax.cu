// Softmax: a block to a row. The exponentials are computed twice rather than stored in between, so that bf16 rounds
// only the result; the second and third reading of a row come from the caches.
#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/block.cuh"
#include "cuda/launch.cuh"
#include "kernels/softmax.h"

namespace llmcore {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;

// The largest over all threads of the block, in each of them; two calls in a row take two arrays, as for team_sum.
LLMCORE_DEVICE float block_max(float value, float (&partial)[kWarps]) {
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    float largest = partial[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) largest = fmaxf(largest, partial[warp]);
    return largest;
}

template <class T>
__global__ void __launch_bounds__(kThreads) softmax_forward_kernel(T* y, const T* x, int64_t C) {
    LLMCORE_SHARED(float[kWarps], maxima);
    LLMCORE_SHARED(float[kWarps], sums);
    const T* x_n = x + int64_t(blockIdx.x) * C;
    T* y_n = y + int64_t(blockIdx.x) * C;
    float largest = -INFINITY, sum = 0.0f;
    for (int64_t c = threadIdx.x; c < C; c += kThreads) largest = fmaxf(largest, to_float(x_n[c]));
    largest = block_max(largest, maxima);
    for (int64_t c = threadIdx.x; c < C; c += kThreads) sum += expf(to_float(x_n[c]) - largest);
    const float scale = 1.0f / team_sum<kWarps>(sum, sums);
    for (int64_t c = threadIdx.x; c < C; c += kThreads)
        y_n[c] = from_float<T>(expf(to_float(x_n[c]) - largest) * scale);
}

template <class T>
__global__ void __launch_bounds__(kThreads) softmax_backward_kernel(T* dx, const T* dy, const T* y, int64_t C) {
    LLMCORE_SHARED(float[kWarps], sums);
    const int64_t start = int64_t(blockIdx.x) * C;
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < C; c += kThreads) sum += to_float(dy[start + c]) * to_float(y[start + c]);
    const float total = team_sum<kWarps>(sum, sums);
    for (int64_t c = threadIdx.x; c < C; c += kThreads)
        dx[start + c] = from_float<T>(to_float(y[start + c]) * (to_float(dy[start + c]) - total));
}

Launch one_block_per_row(const Cuda& backend, int64_t N) {
    return {dim3(static_cast<unsigned>(N)), dim3(kThreads), 0, backend.stream};
}

}  // namespace

template <class Backend, class T>
void softmax_forward(Backend backend, T* y, const T* x, int64_t N, int64_t C) {
    if (N > 0) launch(one_block_per_row(backend, N), softmax_forward_kernel<T>, y, x, C);
}

template <class Backend, class T>
void softmax_backward(Backend backend, T* dx, const T* dy, const T* y, int64_t N, int64_t C) {
    if (N > 0) launch(one_block_per_row(backend, N), softmax_backward_kernel<T>, dx, dy, y, C);
}

LLMCORE_INSTANTIATE(softmax_forward, Cuda, float)
LLMCORE_INSTANTIATE(softmax_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(softmax_backward, Cuda, float)
LLMCORE_INSTANTIATE(softmax_backward, Cuda, bf16)

}  // namespace llmcore
