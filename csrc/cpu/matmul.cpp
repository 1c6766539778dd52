// Matrix products on the CPU. y is cut into tiles, one task each. A tile goes through the whole of K in passes of the
// same size: it packs what the pass needs of b (stays in the second-level cache), then, strip of rows by strip, takes a
// block of a (first-level cache) and adds to float sums, panel of b by panel. The epilogue runs over the sums of a
// panel as soon as they are whole, while they are still in the cache.
//
// Where several tiles need the same rows of a, these are packed before, once, by all threads together. The cut depends
// on the number of threads and on the caches (cpu/matmul_blocks.h), the bits do not: see kernels/matmul.h. Column cuts
// are multiples of a panel, so the columns that take the epilogue's path for tails are always the last N % kLanes.
#include "kernels/matmul.h"

#include <type_traits>

#include "core/thread_pool.h"
#if defined(__AMX_BF16__)
#include "cpu/matmul_amx.h"
#include "cpu/matmul_amx_few_lanes.h"
#elif defined(__AVX512BF16__)
#include "cpu/matmul_bf16.h"
#else
#include "cpu/matmul_panel.h"
#endif
#include "cpu/matmul_blocks.h"
#include "cpu/matmul_epilogue.h"
#include "cpu/matmul_few_lanes.h"
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

// And how it does where one of them has few lanes; by the kernel where that is void.
#if defined(__AMX_BF16__)
template <class A, class B>
using FewLanesOf = std::conditional_t<std::is_same_v<A, B>, FewLanesByTiles, void>;
#elif defined(__AVX512BF16__)
template <class A, class B>
using FewLanesOf = std::conditional_t<std::is_same_v<A, B>, FewLanesByVectors<PairedUnits>, void>;
#else
template <class A, class B>
using FewLanesOf = FewLanesByVectors<FloatSteps>;
#endif

// A task packs so many strips of a at once, so many rows of a at a time where its columns are side by side: long enough
// to read memory in order, few enough for the first-level cache.
constexpr int64_t kPackedStrips = 8, kPackedRows = 32;

// ----------------------------------------------------------------------------------------------------------------
// kernels

// The columns of b that a tile needs in one pass.
struct TilePass {
    int64_t column, columns, k, steps;
};

// Packs them, panel by panel.
template <class Kernel, class T>
void pack_tile(float* panels, const PanelSource<T>& b, const TilePass& t, int64_t pass) {
    constexpr int64_t kPanel = Kernel::kPanel;
    int64_t panel_units = pass / Kernel::kSteps * kPanel;
    // Columns side by side in memory: a few rows of b at a time, each read on through all panels.
    int64_t rows = b.adjacent_lanes ? Kernel::kGrain : t.steps;
    for (int64_t first = 0; first < t.steps; first += rows)
        for (int64_t j = 0; j < t.columns; j += kPanel)
            Kernel::pack_b(panels + j / kPanel * panel_units + first / Kernel::kSteps * kPanel, b, t.column + j,
                           t.k + first, smaller(rows, t.steps - first));
}

// Packs strips of a for the whole of K: `count` of them from row `lane` on.
template <class Kernel, class T>
void pack_strips(float* strips, const PanelSource<T>& a, int64_t lane, int64_t count, int64_t K, const Blocks& blocks) {
    for (int64_t k = 0; k < K; k += blocks.pass)
        for (int64_t first = k; first < smaller(k + blocks.pass, K); first += blocks.block) {
            int64_t steps = smaller(blocks.block, smaller(k + blocks.pass, K) - first);
            int64_t rows = a.adjacent_lanes ? kPackedRows : steps;
            for (int64_t done = 0; done < steps; done += rows) {
                int64_t now = smaller(rows, steps - done);
                if (a.adjacent_lanes)
                    a.prefetch(lane, count * Kernel::kStrip, first + done + rows,
                               smaller(rows, larger(K - first - done - rows, 0)), 0, 1);
                for (int64_t i = 0; i < count; ++i)
                    if (!Kernel::in_place(a, lane + i * Kernel::kStrip, first, steps))
                        Kernel::pack_a(
                            strips + i * strip_units<Kernel>(K) + first / Kernel::kSteps * Kernel::kStripLanes, a,
                            lane + i * Kernel::kStrip, first + done, now, done, steps);
            }
        }
}

// Where a kernel finds the block of a that begins at row `lane` and step `first` without packing it now; no units if it
// has to be packed. `strips`: those from row `top` on that are packed already, or null.
template <class Kernel, class T>
Strip ready_strip(const PanelSource<T>& a, const float* strips, int64_t top, int64_t lane, int64_t first, int64_t steps,
                  int64_t K) {
    if (Kernel::in_place(a, lane, first, steps)) return Kernel::strip_in_place(a, lane, first, steps);
    if (strips == nullptr) return {};
    const float* strip = strips + (lane - top) / Kernel::kStrip * strip_units<Kernel>(K);
    return Kernel::packed_strip(strip + first / Kernel::kSteps * Kernel::kStripLanes, steps);
}

// The tile of y that starts at (row, column), `rows` x `columns` of it inside y. `strips`: the strips of a from `row`
// on, if they are packed already. `next_column`: where this thread's next tile begins, p.N or more if it has none.
template <class Kernel, class Out, class A, class B>
void compute_tile(const Product<Out, A, B>& product, const Blocks& blocks, const Scratch& scratch, const float* strips,
                  int64_t row, int64_t column, int64_t rows, int64_t columns, int64_t next_column) {
    constexpr int64_t kPanel = Kernel::kPanel, kStrip = Kernel::kStrip;
    Kernel::begin();
    int64_t total = product.p.K, panel_units = blocks.pass / Kernel::kSteps * kPanel,
            panels = divide_up(columns, kPanel);
    bool one_pass = total <= blocks.pass, one_block = total <= blocks.block;
    bool prefetching = rows >= kMinStripsToPrefetch * kStrip;
    for (int64_t k = 0; k == 0 || k < total; k += blocks.pass) {
        int64_t end = smaller(k + blocks.pass, total);
        pack_tile<Kernel>(scratch.b, product.b, {column, columns, k, end - k}, blocks.pass);
        TilePass after = end < total ? TilePass{column, columns, end, smaller(blocks.pass, total - end)}
                                     : TilePass{next_column, blocks.tile_columns, 0, smaller(blocks.pass, total)};
        int64_t part = 0, parts = divide_up(rows, kStrip) * larger(divide_up(end - k, blocks.block), 1) * panels;
        for (int64_t i = 0; i < rows; i += kStrip) {
            int64_t strip_rows = smaller(kStrip, rows - i);
            float* strip_sums = scratch.sums + (one_pass ? 0 : i * panels * kPanel);
            for (int64_t first = k; first == k || first < end; first += blocks.block) {
                int64_t K = smaller(blocks.block, end - first);
                const float* b_block = scratch.b + (first - k) / Kernel::kSteps * kPanel;
                Strip a = ready_strip<Kernel>(product.a, strips, row, row + i, first, K, total);
                if (a.units == nullptr) a = Kernel::pack_a(scratch.a, product.a, row + i, first, K, 0, K);
                Strip next{};  // the block after this one, on its way into the cache while this one is multiplied
                if (first + K < end)
                    next = ready_strip<Kernel>(product.a, strips, row, row + i, first + K,
                                               smaller(blocks.block, end - first - K), total);
                else if (i + kStrip < rows)
                    next = ready_strip<Kernel>(product.a, strips, row, row + i + kStrip, k,
                                               smaller(blocks.block, end - k), total);
                for (int64_t panel = 0; panel < panels; ++panel) {
                    float* sums = strip_sums + (one_block ? 0 : panel * kStrip * kPanel);
                    next.prefetch(panel, panels);
                    if (prefetching && after.column < product.p.N)
                        product.b.prefetch(after.column, after.columns, after.k, after.steps, part++, parts);
                    Kernel::multiply(strip_rows, sums, kPanel, a, b_block + panel * panel_units, K, first > 0);
                    if (first + K == total)
                        finish<Kernel>(product, sums, kPanel, row + i, column + panel * kPanel, strip_rows,
                                       smaller(kPanel, columns - panel * kPanel));
                }
            }
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
    typedef FewLanesOf<A, B> By;
    if constexpr (!std::is_void_v<By>)
        if (has_few_lanes<By>(p, epilogue.dbias != nullptr))
            return matmul_few_lanes<Kernel, By>(y, a, b, p, epilogue, cut_steps<Kernel>(p.K).block, workspace);
    Blocks blocks = cut_into_blocks<Kernel>(p);
    bool shared = blocks.packing == Packing::kShared;
    float* partial = partial_sums_of<Kernel>(workspace, blocks, p.K);
    for (int64_t top = 0; top < p.M; top += blocks.rows) {
        int64_t height = smaller(blocks.rows, p.M - top);
        if (shared) {
            PanelSource<A> source{a, p.a_row(), p.M, p.transpose_a};
            int64_t strips = divide_up(height, Kernel::kStrip);
            parallel_tasks(divide_up(strips, kPackedStrips), [&](int64_t task, int) {
                int64_t strip = task * kPackedStrips;
                pack_strips<Kernel>(workspace + strip * strip_units<Kernel>(p.K), source, top + strip * Kernel::kStrip,
                                    smaller(kPackedStrips, strips - strip), p.K, blocks);
            });
        }
        int64_t row_tiles = divide_up(height, blocks.tile_rows), column_tiles = divide_up(p.N, blocks.tile_columns);
        // Row tiles innermost: neighbouring tasks run on one thread and read the same columns of b.
        parallel_tasks(p.batch * row_tiles * column_tiles, [&](int64_t task, int worker) {
            int64_t row = task % row_tiles * blocks.tile_rows;
            int64_t column = task / row_tiles % column_tiles * blocks.tile_columns;
            int64_t matrix = task / (row_tiles * column_tiles);
            PanelSource<A> a_source{a + matrix * p.a_step, p.a_row(), p.M, p.transpose_a};
            PanelSource<B> b_source{b + matrix * p.b_step, p.transpose_b ? p.K : p.N, p.N, !p.transpose_b};
            Product<Out, A, B> product{y, a_source, b_source, p, epilogue, matrix * p.M * p.y_row(), partial};
            const float* strips = shared ? workspace + row / Kernel::kStrip * strip_units<Kernel>(p.K) : nullptr;
            compute_tile<Kernel>(product, blocks, scratch_of<Kernel>(workspace, worker, blocks, p.K), strips, top + row,
                                 column, smaller(blocks.tile_rows, height - row),
                                 smaller(blocks.tile_columns, p.N - column),
                                 row_tiles == 1 ? column + blocks.tile_columns : p.N);
        });
    }
    if (epilogue.dbias != nullptr) add_row_blocks(epilogue.dbias, partial, divide_up(p.M, Kernel::kStrip), p.N, p.N);
}

template <class Backend>
size_t matmul_workspace(Backend, const MatmulProblem& p, bool with_dbias) {
    if (p.batch == 0 || p.M == 0 || p.N == 0) return 0;
    // Of the kernels of this level, the one that needs most.
    typedef FewLanesOf<bf16, bf16> By;
    int64_t floats = larger(workspace_floats<KernelOf<bf16, bf16>>(p, with_dbias),
                            workspace_floats<KernelOf<float, bf16>>(p, with_dbias));
    if (has_few_lanes<By>(p, with_dbias))
        floats = larger(floats, few_lanes_workspace<KernelOf<bf16, bf16>, By>(p, with_dbias));
    return static_cast<size_t>(floats);
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
