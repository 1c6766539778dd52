// Norms on CUDA. A block squares and adds a piece in double: each thread every 256th chunk of eight elements, in eight
// sums, then the threads in a tree. One more block adds the pieces in the same way. Nothing here waits for the host.
#include <cfloat>

#include "cuda/map.cuh"
#include "cuda/shared.cuh"
#include "kernels/norm.h"

namespace llmcore {
namespace {

// The sum over the threads of the block, in thread 0. `sums` is the block's.
LLMCORE_DEVICE double block_sum(double value, double (&sums)[kMapThreads]) {
    sums[threadIdx.x] = value;
    for (int width = kMapThreads / 2; width > 0; width /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < width) sums[threadIdx.x] += sums[threadIdx.x + width];
    }
    return sums[0];
}

__global__ void __launch_bounds__(kMapThreads)
    squared_norm_kernel(double* partial, const float* x, int64_t n, bool vectors) {
    LLMCORE_SHARED(double[kMapThreads], sums);
    const int64_t begin = int64_t(blockIdx.x) * kNormPiece, end = n - begin < kNormPiece ? n : begin + kNormPiece;
    double squares[kChunk] = {};
#pragma unroll 2
    for (int64_t i = begin + threadIdx.x * kChunk; i < end; i += kMapThreads * kChunk) {
        float values[kChunk];
        load_chunk(values, x + i, end - i < kChunk ? int(end - i) : kChunk, vectors);
#pragma unroll
        for (int k = 0; k < kChunk; ++k) squares[k] += double(values[k]) * values[k];
    }
#pragma unroll
    for (int width = kChunk / 2; width > 0; width /= 2)
#pragma unroll
        for (int k = 0; k < width; ++k) squares[k] += squares[k + width];
    const double sum = block_sum(squares[0], sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kMapThreads)
    norm_of_pieces_kernel(float* norm, const double* partial, int64_t count) {
    LLMCORE_SHARED(double[kMapThreads], sums);
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < count; i += kMapThreads) sum += partial[i];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) *norm = float(sqrt(sum));
}

__global__ void clip_factor_kernel(float* factor, const float* norm, float max_norm) {
    const float wanted = max_norm / (*norm + 1e-6f);
    *factor = wanted > 1.0f ? 1.0f : wanted;
}

__global__ void set_flag_kernel(int32_t* flag) {
    *flag = 1;
}

template <class T>
__global__ void __launch_bounds__(kMapThreads) all_finite_kernel(int32_t* flag, const T* x, int64_t n, bool vectors) {
    bool finite = true;
    for_chunks(n, [&](int64_t first, int count) {
        float values[kChunk];
        load_chunk(values, x + first, count, vectors);
#pragma unroll
        for (int k = 0; k < kChunk; ++k) finite = finite && fabsf(values[k]) <= FLT_MAX;
    });
    if (!finite) atomicExch(flag, 0);  // all who write write the same
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend>
void squared_norm_pieces(Backend backend, double* partial, const float* x, int64_t n) {
    if (n > 0)
        launch({static_cast<unsigned>(norm_pieces(n)), kMapThreads, 0, backend.stream}, squared_norm_kernel, partial, x,
               n, on_vectors(x));
}

template <class Backend>
void norm_of_pieces(Backend backend, float* norm, const double* partial, int64_t count) {
    launch({1, kMapThreads, 0, backend.stream}, norm_of_pieces_kernel, norm, partial, count);
}

template <class Backend>
void clip_factor(Backend backend, float* factor, const float* norm, float max_norm) {
    launch({1, 1, 0, backend.stream}, clip_factor_kernel, factor, norm, max_norm);
}

template <class Backend, class T>
void all_finite(Backend backend, int32_t* flag, const T* x, int64_t n) {
    launch({1, 1, 0, backend.stream}, set_flag_kernel, flag);
    if (n > 0) launch(chunk_shape(backend, n), all_finite_kernel<T>, flag, x, n, on_vectors(x));
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(squared_norm_pieces, Cuda)
LLMCORE_INSTANTIATE(norm_of_pieces, Cuda)
LLMCORE_INSTANTIATE(clip_factor, Cuda)
LLMCORE_INSTANTIATE(all_finite, Cuda, float)
LLMCORE_INSTANTIATE(all_finite, Cuda, bf16)

}  // namespace llmcore
