// csrc/kernels/matmul.h on CUDA: which kernel multiplies (cuda/matmul_variants.cuh), and the way back through a fused
// bias and activation.
#include <algorithm>
#include <climits>
#include <type_traits>

#include "core/check.h"
#include "cuda/activation_math.cuh"
#include "cuda/column_sums.cuh"
#include "cuda/fours.cuh"
#include "cuda/matmul_variants.cuh"
#include "kernels/matmul.h"

namespace llmcore {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// bias_activation_backward: dpre on the way to its column sums

template <class T>
struct Slopes {
    T* dpre;  // null if it is not wanted
    const T *dy, *pre;
    int64_t N;
    Activation activation;
    bool whole_fours;

    LLMCORE_DEVICE void operator()(float (&gradient)[4], int64_t row, int64_t column, int count) const {
        const size_t at = size_t(row * N + column);
        add_four(gradient, dy + at, count, whole_fours);
        if (activation != Activation::kNone) {
            float before[4] = {};
            add_four(before, pre + at, count, whole_fours);
#pragma unroll
            for (int i = 0; i < 4; ++i) gradient[i] *= activation_slope(activation, before[i]);
        }
        if (dpre != nullptr) store_four(dpre + at, gradient, count, whole_fours);
    }
};

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

template <class Out, class A, class B>
void multiply_portably(const Cuda& cuda, Out* y, const A* a, const B* b, const MatmulProblem& problem,
                       const MatmulEpilogue<Out>& epilogue) {
    if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>)
        matmul_sm80(cuda, tile_size(cuda, problem), y, a, b, problem, epilogue);
    else
        matmul_simt(cuda, tile_size(cuda, problem), y, a, b, problem, epilogue);
}

// Parts of K are added to y one after another: what follows whole sums cannot stand between them.
template <class Out>
MatmulResult result_of(const MatmulEpilogue<Out>& e) {
    if (!std::is_same_v<Out, float>)
        return e.dbias != nullptr ? MatmulResult::kBf16WithColumnSums : MatmulResult::kBf16;
    const bool plain =
        e.bias == nullptr && e.activation == Activation::kNone && e.pre_activation == nullptr && e.residual == nullptr;
    return plain ? MatmulResult::kFloatInParts : MatmulResult::kFloat;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class Out, class A, class B>
void matmul(Backend cuda, Out* y, const A* a, const B* b, const MatmulProblem& problem,
            const MatmulEpilogue<Out>& epilogue, float* workspace) {
    if (problem.batch == 0 || problem.M == 0 || problem.N == 0) return;
    check_sizes(problem);
    if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>) {
        if (cuda.matmul_sm90 && matmul_sm90_refusal(y, a, b, problem, epilogue) == nullptr)
            return matmul_sm90(cuda, choose_matmul(cuda, problem, result_of(epilogue)), y, a, b, problem, epilogue,
                               workspace);
    }
    if (!epilogue.is_backward()) return multiply_portably(cuda, y, a, b, problem, epilogue);
    // No portable kernel has this in its epilogue yet: the product, rounded once more than need be, then its way back
    // in place.
    multiply_portably(cuda, y, a, b, problem, MatmulEpilogue<Out>{});
    bias_activation_backward(cuda, y, epilogue.dbias, y, epilogue.slope_at, workspace, problem.M, problem.N,
                             epilogue.activation);
}

// Enough for whichever kernel it will be, which the operands' addresses decide.
template <class Backend>
size_t matmul_workspace(Backend cuda, const MatmulProblem& problem, bool with_dbias) {
    size_t floats = with_dbias ? column_sums_workspace(problem.M, problem.N) : 0;
    if (cuda.matmul_sm90) {
        const MatmulChoice choice = choose_matmul(cuda, problem, MatmulResult::kFloatInParts);
        floats = std::max(floats, matmul_sm90_workspace(choice, problem, with_dbias));
    }
    return floats;
}

template <class Backend, class T>
void bias_activation_backward(Backend cuda, T* dpre, float* dbias, const T* dy, const T* pre, float* workspace,
                              int64_t M, int64_t N, Activation activation) {
    if (activation == Activation::kNone) dpre = nullptr;
    if (M == 0 || N == 0 || (dpre == nullptr && dbias == nullptr)) return;
    const bool whole_fours = N % 4 == 0 && on_four(dpre) && on_four(dy) && on_four(pre);
    add_columns(cuda, dbias, workspace, M, N, Slopes<T>{dpre, dy, pre, N, activation, whole_fours});
}

template <class Backend>
size_t bias_activation_backward_workspace(Backend, int64_t M, int64_t N) {
    return column_sums_workspace(M, N);
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
