// Sums. Of everything: a block adds a piece of the array in double, a thread every 256th element, then the threads in a
// tree; one more block adds the pieces in order. Of columns: cuda/column_sums.cuh.
#include "cuda/column_sums.cuh"
#include "cuda/fours.cuh"
#include "cuda/map.cuh"
#include "kernels/reduce.h"

namespace llmcore {
namespace {

template <class T>
__global__ void __launch_bounds__(kMapThreads) sum_pieces_kernel(double* partial, const T* x, int64_t n) {
    LLMCORE_SHARED(double[kMapThreads], sums);
    const int64_t begin = int64_t(blockIdx.x) * kSumPiece, end = n - begin < kSumPiece ? n : begin + kSumPiece;
    double sum = 0.0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kMapThreads) sum += double(to_float(x[i]));
    sums[threadIdx.x] = sum;
    for (int width = kMapThreads / 2; width > 0; width /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < width) sums[threadIdx.x] += sums[threadIdx.x + width];
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

__global__ void add_pieces_kernel(float* y, const double* partial, int64_t pieces, double factor) {
    double sum = 0.0;
    for (int64_t i = 0; i < pieces; ++i) sum += partial[i];
    *y = float(sum * factor);
}

template <class T>
__global__ void __launch_bounds__(kMapThreads) spread_kernel(T* dx, const float* dy, int64_t n, double factor) {
    const T value = from_float<T>(float(*dy * factor));
    for (int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kMapThreads)
        dx[i] = value;
}

template <class T>
struct Rows {
    const T* x;
    int64_t C;
    bool whole_fours;
    LLMCORE_DEVICE void operator()(float (&values)[4], int64_t row, int64_t column, int count) const {
        add_four(values, x + row * C + column, count, whole_fours);
    }
};

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void sum(Backend backend, float* y, const T* x, double* workspace, int64_t n, double factor) {
    const int64_t pieces = (n + kSumPiece - 1) / kSumPiece;
    if (pieces > 0)
        launch({static_cast<unsigned>(pieces), kMapThreads, 0, backend.stream}, sum_pieces_kernel<T>, workspace, x, n);
    launch({1, 1, 0, backend.stream}, add_pieces_kernel, y, workspace, pieces, factor);
}

template <class Backend, class T>
void sum_backward(Backend backend, T* dx, const float* dy, int64_t n, double factor) {
    if (n > 0) launch(map_shape(backend, n), spread_kernel<T>, dx, dy, n, factor);
}

template <class Backend, class T>
void add_column_sums(Backend backend, float* total, const T* x, float* workspace, int64_t N, int64_t C) {
    if (N > 0 && C > 0) add_columns(backend, total, workspace, N, C, Rows<T>{x, C, C % 4 == 0 && on_four(x)});
}

template <class Backend>
size_t add_column_sums_workspace(Backend, int64_t N, int64_t C) {
    return column_sums_workspace(N, C);
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(sum, Cuda, float)
LLMCORE_INSTANTIATE(sum, Cuda, bf16)
LLMCORE_INSTANTIATE(sum_backward, Cuda, float)
LLMCORE_INSTANTIATE(sum_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(add_column_sums, Cuda, float)
LLMCORE_INSTANTIATE(add_column_sums, Cuda, bf16)
LLMCORE_INSTANTIATE(add_column_sums_workspace, Cuda)

}  // namespace llmcore
