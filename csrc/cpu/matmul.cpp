// Matrix products on the CPU. y is cut into tiles, one task each. A task goes through the whole of K in passes of the
// same size: it packs what the pass needs of b (stays in the second-level cache), then, strip of rows by strip, packs a
// block of a (first-level cache) and adds to float sums. The epilogue runs over each strip while it is still in the
// cache.
//
// The cut depends on the number of threads, the bits do not: see kernels/matmul.h. Column cuts are multiples of a
// panel, so the columns that take the epilogue's path for tails are always the last N % kLanes.
#include "kernels/matmul.h"

#include <type_traits>

#include "core/thread_pool.h"
#if defined(__AMX_BF16__)
#include "cpu/matmul_amx.h"
#elif defined(__AVX512BF16__)
#include "cpu/matmul_bf16.h"
#else
#include "cpu/matmul_panel.h"
#endif
#include "cpu/row_blocks.h"
#include "cpu/simd_math.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

// How this level multiplies a matrix of A by one of B.
#if defined(__AMX_BF16__)
template <class A, class B>
using KernelOf = AmxKernel<std::conditional_t<std::is_same_v<A, B>, PairedSteps, SplitSteps>>;
#elif defined(__AVX512BF16__)
template <class A, class B>
using KernelOf = Bf16Kernel<std::conditional_t<std::is_same_v<A, B>, PairedSteps, SplitSteps>>;
#else
template <class A, class B>
using KernelOf = FloatKernel;
#endif

// Below this many multiply-adds waking a second thread costs more than it brings.
constexpr int64_t kMinParallelWork = 1 << 18;

LLMCORE_INLINE int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
LLMCORE_INLINE int64_t round_up(int64_t a, int64_t b) {
    return divide_up(a, b) * b;
}
LLMCORE_INLINE int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// ----------------------------------------------------------------------------------------------------------------
// how the work is cut

struct Tiles {
    int64_t rows, columns;              // of a tile
    int64_t row_blocks, column_blocks;  // tiles of one matrix of the batch
    int64_t pass, block;                // steps of K for which b and a are packed at once
};

inline int64_t cut_evenly(int64_t size, int64_t largest, int64_t grain) {
    return round_up(divide_up(size, divide_up(size, largest)), grain);
}

// As large as the caches allow, then as many more as the threads need. A cut between columns packs a twice, a cut
// between rows packs b twice; a is packed for every column tile anyway, so columns are cut first.
template <class Kernel>
Tiles cut_into_tiles(const MatmulProblem& p) {
    constexpr int64_t kPanel = Kernel::kPanel, kStrip = Kernel::kStrip;
    int64_t pass = p.K == 0 ? Kernel::kGrain : cut_evenly(p.K, Kernel::kPassK, Kernel::kGrain);
    int64_t block = cut_evenly(pass, Kernel::kBlockK, Kernel::kGrain);
    int64_t tile_columns = smaller(Kernel::kTileUnits * Kernel::kSteps / pass, Kernel::kTileColumns) / kPanel * kPanel;
    int64_t column_blocks = divide_up(p.N, tile_columns);
    int64_t row_blocks = divide_up(p.M, Kernel::kTileRows / kStrip * kStrip);
    int64_t threads = p.batch * p.M * p.N * p.K < kMinParallelWork ? 1 : num_threads();
    if (p.batch * column_blocks * row_blocks % threads != 0 && p.batch < 4 * threads) {
        if (p.N >= threads * 2 * kPanel)
            column_blocks = round_up(column_blocks, threads);
        else if (p.M >= threads * kStrip)
            row_blocks = round_up(row_blocks, threads);
        else
            column_blocks = smaller(threads, divide_up(p.N, kPanel));
    }
    int64_t columns = round_up(divide_up(p.N, column_blocks), kPanel);
    int64_t rows = round_up(divide_up(p.M, row_blocks), kStrip);
    return {rows, columns, divide_up(p.M, rows), divide_up(p.N, columns), pass, block};
}

// A worker's memory. A tile that is done in one pass needs the sums of one strip only.
struct Scratch {
    float *a, *b, *sums;
};

template <class Kernel>
int64_t scratch_floats(const Tiles& tiles, int64_t K) {
    int64_t sums = K <= tiles.pass ? Kernel::kStrip : tiles.rows;
    int64_t units = Kernel::kStripLanes * tiles.block + tiles.columns * tiles.pass;
    return round_up(units / Kernel::kSteps + tiles.columns * sums, 16);  // whole cache lines
}

template <class Kernel>
Scratch scratch_of(float* workspace, int worker, const Tiles& tiles, int64_t K) {
    float* a = workspace + worker * scratch_floats<Kernel>(tiles, K);
    float* b = a + Kernel::kStripLanes * tiles.block / Kernel::kSteps;
    return {a, b, b + tiles.columns * tiles.pass / Kernel::kSteps};
}

// ----------------------------------------------------------------------------------------------------------------
// kernels

// One row of y from its sums: y = residual + activation(sums + bias), or y += that.
template <class Out>
void finish_row(Out* y, const float* sums, const MatmulEpilogue<Out>& e, int64_t offset, int64_t column, int64_t count,
                bool accumulate) {
    const Out* bias = e.bias ? e.bias + column : nullptr;
    Out* pre = e.pre_activation ? e.pre_activation + offset : nullptr;
    const Out* residual = e.residual ? e.residual + offset : nullptr;
    with_activation(e.activation, [&]<Activation kind>() {
        for_each_vector(count, [&](auto at) {
            Vec value = at.load(sums);
            if (bias != nullptr) value += at.load(bias);
            if (pre != nullptr) at.store(pre, value);
            value = activate<kind>(value);
            if (residual != nullptr) value += at.load(residual);
            if (accumulate) value += at.load(y + offset);
            at.store(y + offset, value);
        });
    });
}

// The tile of y that starts at (row, column), `rows` x `columns` of it inside y. y and the epilogue are those of one
// matrix of the batch, whose first element has index `base`.
template <class Kernel, class Out, class A, class B>
void compute_tile(Out* y, const PanelSource<A>& a, const PanelSource<B>& b, const MatmulProblem& p, const Tiles& tiles,
                  const MatmulEpilogue<Out>& epilogue, const Scratch& scratch, int64_t base, int64_t row,
                  int64_t column, int64_t rows, int64_t columns) {
    Kernel::begin();
    int64_t stride = tiles.columns, panel_units = tiles.pass / Kernel::kSteps;
    bool one_pass = p.K <= tiles.pass;
    for (int64_t k = 0; k == 0 || k < p.K; k += tiles.pass) {
        int64_t end = smaller(k + tiles.pass, p.K);
        for (int64_t j = 0; j < columns; j += Kernel::kPanel)
            Kernel::pack_b(scratch.b + j * panel_units, b, column + j, k, end - k);
        for (int64_t i = 0; i < rows; i += Kernel::kStrip) {
            int64_t strip = smaller(Kernel::kStrip, rows - i);
            float* sums = scratch.sums + (one_pass ? 0 : i * stride);
            for (int64_t first = k; first == k || first < end; first += tiles.block) {
                int64_t K = smaller(tiles.block, end - first);
                const float* b_block = scratch.b + (first - k) / Kernel::kSteps * Kernel::kPanel;
                Strip a_strip = Kernel::pack_a(scratch.a, a, row + i, first, K);
                for (int64_t j = 0; j < columns; j += Kernel::kPanel) {
                    Kernel::multiply(strip, sums + j, stride, a_strip, b_block + j * panel_units, K, first > 0);
                }
            }
            for (int64_t r = 0; end == p.K && r < strip; ++r)
                finish_row(y, sums + r * stride, epilogue, base + (row + i + r) * p.N + column, column, columns,
                           p.accumulate);
        }
    }
    Kernel::end();
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class Out, class A, class B>
void matmul(Backend, Out* y, const A* a, const B* b, const MatmulProblem& p, const MatmulEpilogue<Out>& epilogue,
            float* workspace) {
    if (p.batch == 0 || p.M == 0 || p.N == 0) return;
    typedef KernelOf<A, B> Kernel;
    Tiles tiles = cut_into_tiles<Kernel>(p);
    // Row blocks innermost: neighbouring tasks run on one thread and read the same columns of b.
    parallel_tasks(p.batch * tiles.row_blocks * tiles.column_blocks, [&](int64_t task, int worker) {
        int64_t row = task % tiles.row_blocks * tiles.rows;
        int64_t column = task / tiles.row_blocks % tiles.column_blocks * tiles.columns;
        int64_t matrix = task / (tiles.row_blocks * tiles.column_blocks);
        PanelSource<A> a_source{a + matrix * p.a_step, p.transpose_a ? p.M : p.K, p.M, p.transpose_a};
        PanelSource<B> b_source{b + matrix * p.b_step, p.transpose_b ? p.K : p.N, p.N, !p.transpose_b};
        compute_tile<Kernel>(y, a_source, b_source, p, tiles, epilogue,
                             scratch_of<Kernel>(workspace, worker, tiles, p.K), matrix * p.M * p.N, row, column,
                             smaller(tiles.rows, p.M - row), smaller(tiles.columns, p.N - column));
    });
}

template <class Backend>
size_t matmul_workspace(Backend, const MatmulProblem& p) {
    if (p.batch == 0 || p.M == 0 || p.N == 0) return 0;
    // Of the kernels of this level, the one that needs most.
    int64_t floats = scratch_floats<KernelOf<bf16, bf16>>(cut_into_tiles<KernelOf<bf16, bf16>>(p), p.K);
    int64_t mixed = scratch_floats<KernelOf<float, bf16>>(cut_into_tiles<KernelOf<float, bf16>>(p), p.K);
    return static_cast<size_t>(num_threads() * (floats > mixed ? floats : mixed));
}

template <class Backend, class T>
void bias_activation_backward(Backend, T* dpre, float* dbias, const T* dy, const T* pre, float* workspace, int64_t M,
                              int64_t N, Activation activation) {
    int64_t blocks = row_blocks(M);
    bool write = dpre != nullptr && activation != Activation::kNone;
    if (!write && dbias == nullptr) return;
    parallel_tasks(blocks, [=](int64_t block, int) {
        float* sums = workspace + block * N;
        for (int64_t n = 0; n < N; ++n) sums[n] = 0.0f;
        with_activation(activation, [&]<Activation kind>() {
            for (int64_t m = M * block / blocks; m < M * (block + 1) / blocks; ++m)
                for_each_vector(N, [&](auto at) {
                    Vec gradient = at.load(dy + m * N);
                    if constexpr (kind != Activation::kNone) gradient *= activation_slope<kind>(at.load(pre + m * N));
                    if (write) at.store(dpre + m * N, gradient);
                    at.store(sums, at.load(sums) + gradient);
                });
        });
    });
    if (dbias != nullptr) add_row_blocks(dbias, workspace, blocks, N, N);
}

template <class Backend>
size_t bias_activation_backward_workspace(Backend, int64_t M, int64_t N) {
    return static_cast<size_t>(row_blocks(M) * N);
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(matmul, Cpu, bf16, bf16, bf16)
LLMCORE_INSTANTIATE(matmul, Cpu, float, bf16, bf16)
LLMCORE_INSTANTIATE(matmul, Cpu, bf16, float, bf16)
LLMCORE_INSTANTIATE(matmul, Cpu, float, float, bf16)
LLMCORE_INSTANTIATE(matmul_workspace, Cpu)
#if !defined(__AVX512BF16__)  // see dispatch_product in core/dispatch.h
LLMCORE_INSTANTIATE(matmul, Cpu, float, float, float)
LLMCORE_INSTANTIATE(bias_activation_backward, Cpu, float)
LLMCORE_INSTANTIATE(bias_activation_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(bias_activation_backward_workspace, Cpu)
#endif

}  // namespace llmcore
