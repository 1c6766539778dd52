// csrc/kernels/matmul.h on CUDA: which kernel multiplies (cuda/matmul_variants.cuh), and the way back through a fused
// bias and activation.
#include <climits>
#include <type_traits>

#include "core/check.h"
#include "cuda/launch.cuh"
#include "cuda/matmul_epilogue.cuh"
#include "cuda/matmul_variants.cuh"
#include "cuda/shared.cuh"
#include "kernels/matmul.h"

namespace llmcore {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// bias_activation_backward: kernels
//
// dpre = dy * activation'(pre) element by element; the column sums of that in two stages. A block of the first sums
// kColumns columns over its part of the rows: each of its eight warps every eighth row, then the eight in order. The
// second adds the parts in order. How the rows are cut depends on M alone.

constexpr int kColumns = 128, kWarps = 8;  // four columns to a lane

int row_parts(int64_t M) {
    const int64_t rows = 128, most = 128;  // rows that fill a part, parts that fill a GPU at 768 columns
    const int64_t parts = (M + rows - 1) / rows;
    return static_cast<int>(parts < most ? parts : most);
}

template <class T>
struct SlopeProblem {
    T* dpre;
    const T *dy, *pre;
    float* partial;  // (parts, N); null without a bias
    int64_t M;
    int N, parts;
    Activation activation;
    bool whole_fours;
};

// dpre of four columns of one row, and its sum with what `sums` holds.
template <class T>
LLMCORE_DEVICE void add_slopes(const SlopeProblem<T>& p, float (&sums)[4], int64_t row, int column, int count) {
    const size_t at = size_t(row) * size_t(p.N) + size_t(column);
    float gradient[4] = {};
    add_four(gradient, p.dy + at, count, p.whole_fours);
    if (p.activation != Activation::kNone) {
        float pre[4] = {};
        add_four(pre, p.pre + at, count, p.whole_fours);
#pragma unroll
        for (int i = 0; i < 4; ++i) gradient[i] *= activation_slope(p.activation, pre[i]);
    }
    if (p.dpre != nullptr) store_four(p.dpre + at, gradient, count, p.whole_fours);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += gradient[i];
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32) bias_activation_backward_kernel(SlopeProblem<T> p) {
    LLMCORE_SHARED(float[kWarps][kColumns], warp_sums);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int column = int(blockIdx.x) * kColumns + lane * 4;
    const int count = p.N - column < 4 ? p.N - column : 4;
    const int64_t first = p.M * blockIdx.y / p.parts, last = p.M * (blockIdx.y + 1) / p.parts;
    float sums[4] = {};
    if (count > 0)
        for (int64_t row = first + warp; row < last; row += kWarps) add_slopes(p, sums, row, column, count);
    if (p.partial == nullptr) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) warp_sums[warp][lane * 4 + i] = sums[i];
    __syncthreads();
    const int mine = int(blockIdx.x) * kColumns + int(threadIdx.x);
    if (threadIdx.x >= kColumns || mine >= p.N) return;
    float sum = 0.0f;
    for (int i = 0; i < kWarps; ++i) sum += warp_sums[i][threadIdx.x];
    p.partial[size_t(blockIdx.y) * size_t(p.N) + size_t(mine)] = sum;
}

__global__ void __launch_bounds__(kColumns) add_row_parts_kernel(float* dbias, const float* partial, int parts, int N) {
    const int column = int(blockIdx.x) * kColumns + int(threadIdx.x);
    if (column >= N) return;
    float sum = 0.0f;
    for (int i = 0; i < parts; ++i) sum += partial[size_t(i) * size_t(N) + size_t(column)];
    dbias[column] += sum;
}

// ---------------------------------------------------------------------------------------------------------------------
// which kernel

// Kernels count rows, columns, steps and blocks in 32 bits, elements in 64.
void check_sizes(const MatmulProblem& p) {
    const int64_t most = INT_MAX - 1024;  // tiles reach past the end
    LLMCORE_CHECK(p.M <= most && p.N <= most && p.K <= most, "matmul: on CUDA M, N and K must be below 2^31, got ", p.M,
                  ", ", p.N, " and ", p.K);
    const int64_t tiles = int64_t(tiles_of(p.M, 64)) * tiles_of(p.N, 64);
    LLMCORE_CHECK(tiles <= most / p.batch, "matmul: on CUDA y must have fewer than 2^31 tiles of 64 x 64, got ",
                  p.batch, " x ", tiles);
}

// Large tiles where they are enough for every multiprocessor to have one.
TileSize tile_size(const Cuda& cuda, const MatmulProblem& p) {
    const int64_t blocks = p.batch * tiles_of(p.M, 128) * tiles_of(p.N, 128);
    return blocks >= cuda.multiprocessors ? TileSize::kLarge : TileSize::kSmall;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class Out, class A, class B>
void matmul(Backend cuda, Out* y, const A* a, const B* b, const MatmulProblem& problem,
            const MatmulEpilogue<Out>& epilogue, float*) {
    if (problem.batch == 0 || problem.M == 0 || problem.N == 0) return;
    check_sizes(problem);
    if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>) {
        if (cuda.arch == 90 && matmul_sm90_supports(a, b, problem))
            return matmul_sm90(cuda, y, a, b, problem, epilogue);
        matmul_sm80(cuda, tile_size(cuda, problem), y, a, b, problem, epilogue);
    } else {
        matmul_simt(cuda, tile_size(cuda, problem), y, a, b, problem, epilogue);
    }
}

template <class Backend>
size_t matmul_workspace(Backend, const MatmulProblem&) {
    return 0;
}

template <class Backend, class T>
void bias_activation_backward(Backend cuda, T* dpre, float* dbias, const T* dy, const T* pre, float* workspace,
                              int64_t M, int64_t N, Activation activation) {
    if (activation == Activation::kNone) dpre = nullptr;
    if (M == 0 || N == 0 || (dpre == nullptr && dbias == nullptr)) return;
    LLMCORE_CHECK(N <= INT_MAX - kColumns, "bias_activation_backward: on CUDA N must be below 2^31, got ", N);
    auto on_four = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % (4 * sizeof(T)) == 0; };
    const bool whole_fours = N % 4 == 0 && on_four(dpre) && on_four(dy) && on_four(pre);
    const int parts = row_parts(M), columns = static_cast<int>(N);
    float* partial = dbias != nullptr ? workspace : nullptr;
    const SlopeProblem<T> problem{dpre, dy, pre, partial, M, columns, parts, activation, whole_fours};
    const unsigned across = tiles_of(N, kColumns);
    launch({dim3(across, static_cast<unsigned>(parts)), kWarps * 32, 0, cuda.stream},
           bias_activation_backward_kernel<T>, problem);
    if (dbias != nullptr)
        launch({across, kColumns, 0, cuda.stream}, add_row_parts_kernel, dbias, partial, parts, columns);
}

template <class Backend>
size_t bias_activation_backward_workspace(Backend, int64_t M, int64_t N) {
    return static_cast<size_t>(row_parts(M)) * static_cast<size_t>(N);
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(matmul, Cuda, bf16, bf16, bf16)
LLMCORE_INSTANTIATE(matmul, Cuda, float, bf16, bf16)
LLMCORE_INSTANTIATE(matmul, Cuda, bf16, float, bf16)
LLMCORE_INSTANTIATE(matmul, Cuda, float, float, bf16)
LLMCORE_INSTANTIATE(matmul, Cuda, float, float, float)
LLMCORE_INSTANTIATE(matmul_workspace, Cuda)
LLMCORE_INSTANTIATE(bias_activation_backward, Cuda, float)
LLMCORE_INSTANTIATE(bias_activation_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(bias_activation_backward_workspace, Cuda)

}  // namespace llmcore
