// csrc/kernels/matmul.h on CUDA: which kernel multiplies (cuda/matmul_variants.cuh), and the way back through a fused
// bias and activation.
#include <algorithm>
#include <climits>
#include <type_traits>

#include "core/check.h"
#include "cuda/activation_math.cuh"
#include "cuda/column_sums.cuh"
#include "cuda/fours.cuh"
#include "cuda/map.cuh"
#include "cuda/matmul_epilogue.cuh"
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

// Large tiles where they are enough for every multiprocessor to have one; if not, large ones in parts where the sums
// are long (gradients of weights), else small ones, in parts where those are too few as well (few rows). A part is 256
// k at least: shorter ones would cost more in writing and adding up their sums than they gain.
Cut cut_product(const Cuda& cuda, const MatmulProblem& p, bool in_parts = true) {
    constexpr int64_t kShortestPart = 256, kLongSum = 2048;
    const int64_t large = p.batch * tiles_of(p.M, 128) * tiles_of(p.N, 128);
    const int64_t small = p.batch * tiles_of(p.M, 64) * tiles_of(p.N, 64);
    const int64_t enough = cuda.multiprocessors, most_parts = in_parts ? p.K / kShortestPart : 1;
    if (large >= enough) return {TileSize::kLarge};
    auto cut_into = [&](TileSize tile, int64_t parts) -> Cut {
        if (parts < 2) return {tile};
        const int64_t part_k = ((p.K + parts - 1) / parts + 63) / 64 * 64;
        return {tile, static_cast<int>((p.K + part_k - 1) / part_k), static_cast<int>(part_k)};
    };
    // Two tiles for each multiprocessor, which is what it has room for.
    const int64_t large_parts = std::min((2 * enough + large - 1) / large, most_parts);
    if (p.M > 64 && p.N > 64 && p.K >= kLongSum && large * large_parts >= enough)
        return cut_into(TileSize::kLarge, large_parts);
    return cut_into(TileSize::kSmall, small >= enough ? 1 : std::min((2 * enough + small - 1) / small, most_parts));
}

// The sums of a product's parts, from which y is finished.
size_t floats_of_parts(const Cut& cut, const MatmulProblem& p) {
    return cut.parts == 1 ? 0 : static_cast<size_t>(p.batch * cut.parts * p.M * p.N);
}

// sums: (batch, parts, M, N).
template <class Out>
__global__ void __launch_bounds__(kMapThreads)
    matmul_finish_parts_kernel(TileEpilogue<Out> epilogue, const float* sums, int64_t matrices, int parts,
                               bool whole_fours) {
    const int64_t M = epilogue.M, N = epilogue.N, fours = (N + 3) / 4, step = int64_t(gridDim.x) * kMapThreads;
    for (int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x; i < matrices * M * fours; i += step) {
        const int64_t column = i % fours * 4, row = i / fours % M, matrix = i / (fours * M);
        const int count = N - column < 4 ? int(N - column) : 4;
        const float* part = sums + (matrix * parts * M + row) * N + column;
        float value[4] = {};
        for (int p = 0; p < parts; ++p) add_four(value, part + p * M * N, count, whole_fours);
        finish_four(epilogue, int(matrix), int(row), int(column), value);
    }
}

template <class Out, class A, class B>
void multiply_tiles(const Cuda& cuda, const Cut& cut, Out* y, const A* a, const B* b, const MatmulProblem& problem,
                    const MatmulEpilogue<Out>& epilogue, float* column_sums = nullptr) {
    if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, bf16>)
        matmul_sm80(cuda, cut, y, a, b, problem, epilogue, column_sums);
    else
        matmul_simt(cuda, cut, y, a, b, problem, epilogue, column_sums);
}

// A product on its way back through an activation. It is not cut into parts: what it gives is as large as an
// activation, so it has tiles enough.
template <class Out, class A, class B>
void multiply_backward(const Cuda& cuda, Out* y, const A* a, const B* b, const MatmulProblem& problem,
                       const MatmulEpilogue<Out>& epilogue, float* workspace) {
    const Cut cut = cut_product(cuda, problem, false);
    float* column_sums = epilogue.dbias != nullptr ? workspace : nullptr;
    multiply_tiles(cuda, cut, y, a, b, problem, epilogue, column_sums);
    if (column_sums != nullptr)
        add_partial_sums(cuda, epilogue.dbias, column_sums, tiles_of(problem.M, side_of(cut.tile)), problem.N);
}

template <class Out, class A, class B>
void multiply_portably(const Cuda& cuda, Out* y, const A* a, const B* b, const MatmulProblem& problem,
                       const MatmulEpilogue<Out>& epilogue, float* workspace) {
    const Cut cut = cut_product(cuda, problem);
    if (cut.parts == 1) return multiply_tiles(cuda, cut, y, a, b, problem, epilogue);
    MatmulProblem parts = problem;
    parts.accumulate = false;
    parts.y_row_step = 0;
    multiply_tiles(cuda, cut, workspace, a, b, parts, MatmulEpilogue<float>{});
    const int64_t fours = problem.batch * problem.M * ((problem.N + 3) / 4);
    launch(map_shape(cuda, fours), matmul_finish_parts_kernel<Out>, tile_epilogue(y, problem, epilogue), workspace,
           problem.batch, cut.parts, problem.N % 4 == 0 && on_four(workspace));
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
    if (epilogue.is_backward())
        multiply_backward(cuda, y, a, b, problem, epilogue, workspace);
    else
        multiply_portably(cuda, y, a, b, problem, epilogue, workspace);
}

// Enough for whichever kernel it will be, which the operands' addresses decide.
template <class Backend>
size_t matmul_workspace(Backend cuda, const MatmulProblem& problem, bool with_dbias) {
    if (problem.batch == 0 || problem.M == 0 || problem.N == 0) return 0;
    size_t floats = floats_of_parts(cut_product(cuda, problem), problem);
    const int64_t rows_of_tiles = tiles_of(problem.M, side_of(TileSize::kSmall));
    if (with_dbias) floats = std::max(floats, partial_sums_workspace(rows_of_tiles, problem.N));
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
