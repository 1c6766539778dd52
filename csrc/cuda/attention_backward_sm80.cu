// Attention backward in bf16 with float sums, for compute capability 8.0 and later; attention_backward.cuh says which
// kernels there are and what they add up.
//
// A block has four warps, each with its own rows of the block's. It goes along tiles of columns in two stages of shared
// memory: while one is worked on, the next is on the way. A warp computes the scores of its rows by a part of the
// columns at a time, as many as its registers hold beside the sums; P and dS become operands of the last products
// there.
#include "cuda/attention_backward.cuh"
#include "cuda/attention_tile.cuh"

namespace llmcore {
namespace {

// The sums that a kernel keeps. Those of keys and of values together are too many for the widest heads.
enum class Gradients { kQueries, kKeysAndValues, kKeys, kValues };

// Heads of up to kWidth columns; a warp has 16 kM rows; kColumns in a stage, kPart of them at a time.
template <Gradients kGradients, int kWidth_, int kM_, int kColumns_, int kPart_>
struct BackwardTile {
    static constexpr int kWidth = kWidth_, kM = kM_, kColumns = kColumns_, kPart = kPart_;
    static constexpr bool kRowsAreKeys = kGradients != Gradients::kQueries;
    static constexpr bool kWithScores = kGradients != Gradients::kValues;  // dS, for dq or dk
    static constexpr bool kWithValues = kGradients == Gradients::kKeysAndValues || kGradients == Gradients::kValues;
    static constexpr int kWarps = 4, kThreads = 32 * kWarps, kRows = 16 * kM * kWarps;
    using Block = BackwardBlock<kRowsAreKeys, kRows, kColumns>;
    using Mask = MaskTile<kRowsAreKeys ? kColumns : kRows, kRowsAreKeys ? kRows : kColumns>;

    // In shared memory: two tiles of rows; two stages of two tiles of columns; of each stage its columns' lse2 and
    // delta; of each stage its mask.
    static constexpr int kBytesRows = HeadTile<kRows, kWidth>::kBytes;
    static constexpr int kBytesColumns = HeadTile<kColumns, kWidth>::kBytes;
    static constexpr int kStages = 2 * kBytesRows, kStatistics = kStages + 4 * kBytesColumns;
    static constexpr int kMasks = kStatistics + (kRowsAreKeys ? 2 * 2 * kColumns * 4 : 0);
    static constexpr int shared_bytes(bool dropout) { return kMasks + (dropout ? 2 * Mask::kBytes : 0); }
};

// Rows of q and dout, or of k and v, of one head.
struct TwoRows {
    HeadRows first, second;
};

LLMCORE_DEVICE TwoRows query_rows(const Backward<bf16>& a, bool whole_q, bool whole_dout, int b, int head) {
    const AttentionProblem& p = a.problem;
    const int Tq = int(p.Tq), HS = int(p.HS);
    return {{a.q + b * p.Tq * p.q_stride + head * p.HS, p.q_stride, 0, Tq, HS, whole_q},
            {a.dout + (b * p.Tq * p.NH + head) * p.HS, p.NH * p.HS, 0, Tq, HS, whole_dout}};
}

LLMCORE_DEVICE TwoRows key_rows(const Backward<bf16>& a, bool whole_k, bool whole_v, int b, int kv,
                                const Visible& visible) {
    const AttentionProblem& p = a.problem;
    const int HS = int(p.HS);
    return {{a.k + b * p.Tk * p.k_stride + kv * p.HS, p.k_stride, visible.begin, visible.end, HS, whole_k},
            {a.v + b * p.Tk * p.v_stride + kv * p.HS, p.v_stride, visible.begin, visible.end, HS, whole_v}};
}

struct WholePieces {
    bool q, k, v, dout, dq, dk, dv;
};

template <class Tile, bool kDropout>
__global__ void __launch_bounds__(Tile::kThreads) attention_backward_mma_kernel(Backward<bf16> a, WholePieces whole) {
    constexpr int kM = Tile::kM, kPart = Tile::kPart, kWidth = Tile::kWidth;
    const AttentionProblem& p = a.problem;
    const typename Tile::Block block(p, int(blockIdx.x));
    const SharedTile first_rows{shared_memory<char>(), shared_address(shared_memory<char>())};
    const SharedTile second_rows = first_rows.at(Tile::kBytesRows);
    auto stage = [&](int step) { return first_rows.at(Tile::kStages + step % 2 * 2 * Tile::kBytesColumns); };
    auto statistics_of = [&](int step) {  // lse2, then delta
        return first_rows.at(Tile::kStatistics + step % 2 * 2 * Tile::kColumns * 4);
    };
    auto mask_of = [&](int step) {
        return reinterpret_cast<uint32_t*>(first_rows.at(Tile::kMasks + step % 2 * Tile::Mask::kBytes).memory);
    };
    auto copy_stage = [&](int step) {
        const int head = block.head_of(step), column = block.column_of(step);
        const TwoRows columns = Tile::kRowsAreKeys ? query_rows(a, whole.q, whole.dout, block.b, head)
                                                   : key_rows(a, whole.k, whole.v, block.b, block.kv, block.visible);
        copy_rows<Tile::kColumns, kWidth, Tile::kThreads>(stage(step), columns.first, column);
        copy_rows<Tile::kColumns, kWidth, Tile::kThreads>(stage(step).at(Tile::kBytesColumns), columns.second, column);
        if constexpr (Tile::kRowsAreKeys) {
            static_assert(2 * Tile::kColumns <= Tile::kThreads, "each thread copies one number at most");
            const int n = int(threadIdx.x), query = column + n % Tile::kColumns;
            const float* from = n < Tile::kColumns ? a.statistics.lse2 : a.statistics.delta;
            const bool inside = query < p.Tq;
            if (n < 2 * Tile::kColumns)
                ptx::cp_async<4>(statistics_of(step).address + uint32_t(n * 4),
                                 from + (inside ? (block.b * p.NH + head) * p.Tq + query : 0), inside ? 4 : 0);
        }
        if constexpr (kDropout)
            Tile::Mask::template draw<Tile::kThreads>(mask_of(step), a.mask.shifted(), block.mask_element(p, step),
                                                      p.Tk);
    };

    const int lane = int(threadIdx.x) % 32, warp_row = int(threadIdx.x) / 32 * 16 * kM;
    const int row = block.row + warp_row;
    float row_lse2[kM][2], row_delta[kM][2];  // where rows are queries
    if constexpr (!Tile::kRowsAreKeys) {
#pragma unroll
        for (int i = 0; i < kM; ++i)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int query = row + 16 * i + 8 * r + lane / 4;
                const int64_t at = (block.b * p.NH + block.first_head) * p.Tq + query;
                row_lse2[i][r] = query < p.Tq ? a.statistics.lse2[at] : 0.0f;
                row_delta[i][r] = query < p.Tq ? a.statistics.delta[at] : 0.0f;
            }
    }

    WarpSums<kM, kWidth> score_sums = {};                          // dq or dk, without the scale
    WarpSums<Tile::kWithValues ? kM : 1, kWidth> value_sums = {};  // dv
    if (block.steps > 0) {
        const TwoRows rows = Tile::kRowsAreKeys ? key_rows(a, whole.k, whole.v, block.b, block.kv, block.visible)
                                                : query_rows(a, whole.q, whole.dout, block.b, block.first_head);
        copy_rows<Tile::kRows, kWidth, Tile::kThreads>(first_rows, rows.first, block.row);
        if constexpr (Tile::kWithScores)
            copy_rows<Tile::kRows, kWidth, Tile::kThreads>(second_rows, rows.second, block.row);
        copy_stage(0);
    }
#pragma unroll 1
    for (int step = 0; step < block.steps; ++step) {
        ptx::cp_async_wait_all();
        __syncthreads();  // this stage is here for all, and all are done with the one that is refilled now
        if (step + 1 < block.steps) copy_stage(step + 1);
        const int column = block.column_of(step);
        if (block.sees_none(row, 16 * kM, column)) continue;
        const bool partly = !block.sees_all(row, 16 * kM, column);
        const uint32_t first = stage(step).address, second = first + uint32_t(Tile::kBytesColumns);
        const float* column_lse2 = reinterpret_cast<const float*>(statistics_of(step).memory);
#pragma unroll 1
        for (int part = 0; part < Tile::kColumns; part += kPart) {
            WarpSums<kM, kPart> probabilities, score_gradients;
            multiply_rows<kWidth, kM, kPart>(probabilities, rows_first<Tile::kRows>(first_rows.address, warp_row),
                                             columns_first<Tile::kColumns>(first, 0), part / 16);
            if constexpr (Tile::kWithScores)
                multiply_rows<kWidth, kM, kPart>(score_gradients,
                                                 rows_first<Tile::kRows>(second_rows.address, warp_row),
                                                 columns_first<Tile::kColumns>(second, 0), part / 16);
            // f(i, j, e, row, column): element e of the 16x8 (i, j), in the tile's row and column.
            auto for_elements = [&](auto&& f) {
#pragma unroll
                for (int i = 0; i < kM; ++i)
#pragma unroll
                    for (int j = 0; j < kPart / 8; ++j)
#pragma unroll
                        for (int e = 0; e < 4; ++e)
                            f(i, j, e, warp_row + 16 * i + e / 2 * 8 + lane / 4, part + 8 * j + lane % 4 * 2 + e % 2);
            };
            for_elements([&](int i, int j, int e, int in_rows, int in_columns) {
                const float lse2 = Tile::kRowsAreKeys ? column_lse2[in_columns] : row_lse2[i][e / 2];
                float& probability = probabilities[i][j][e];
                probability = ptx::exp2_approximate(probability * a.scale_log2 - lse2);
                bool kept = true;
                if constexpr (kDropout)
                    kept = Tile::Mask::keeps(mask_of(step), Tile::kRowsAreKeys ? in_columns : in_rows,
                                             Tile::kRowsAreKeys ? in_rows : in_columns);
                if constexpr (Tile::kWithScores) {
                    const float delta =
                        Tile::kRowsAreKeys ? column_lse2[Tile::kColumns + in_columns] : row_delta[i][e / 2];
                    float& gradient = score_gradients[i][j][e];
                    if constexpr (kDropout) gradient = kept ? gradient * a.mask.keep_scale : 0.0f;
                    gradient = probability * (gradient - delta);
                }
                if constexpr (Tile::kWithValues)
                    if (!kept) probability = 0.0f;
            });
            if (partly)
                for_elements([&](int i, int j, int e, int in_rows, int in_columns) {
                    if (block.sees(block.row + in_rows, column + in_columns)) return;
                    probabilities[i][j][e] = 0.0f;
                    if constexpr (Tile::kWithScores) score_gradients[i][j][e] = 0.0f;
                });
            WarpOperands<kM, kPart> rounded_probabilities, rounded_gradients;
            if constexpr (Tile::kWithValues) {
                round_sums<kM, kPart>(rounded_probabilities, probabilities);
                add_weighted_rows<kWidth, kM, kPart>(value_sums, rounded_probabilities,
                                                     rows_first<Tile::kColumns>(second, 0), part / 16);
            }
            if constexpr (Tile::kWithScores) {
                round_sums<kM, kPart>(rounded_gradients, score_gradients);
                add_weighted_rows<kWidth, kM, kPart>(score_sums, rounded_gradients,
                                                     rows_first<Tile::kColumns>(first, 0), part / 16);
            }
        }
    }

    const int HS = int(p.HS), Tq = int(p.Tq), Tk = int(p.Tk);
    const float scale = p.scale, keep_scale = kDropout ? a.mask.keep_scale : 1.0f;
    if constexpr (!Tile::kRowsAreKeys) {
        const HeadResult dq{a.dq + block.b * p.Tq * p.q_stride + block.first_head * p.HS, p.q_stride, Tq, HS, whole.dq};
        store_rows<Tile::kRows, kWidth, kM>(dq, row, first_rows, warp_row, score_sums, [&](int, int) { return scale; });
    } else if constexpr (Tile::kWithScores) {
        const HeadResult dk{a.dk + block.b * p.Tk * p.k_stride + block.kv * p.HS, p.k_stride, Tk, HS, whole.dk};
        store_rows<Tile::kRows, kWidth, kM>(dk, row, first_rows, warp_row, score_sums, [&](int, int) { return scale; });
    }
    if constexpr (Tile::kWithValues) {
        const HeadResult dv{a.dv + block.b * p.Tk * p.v_stride + block.kv * p.HS, p.v_stride, Tk, HS, whole.dv};
        store_rows<Tile::kRows, kWidth, kM>(dv, row, second_rows, warp_row, value_sums,
                                            [&](int, int) { return keep_scale; });
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// launch

template <Gradients kGradients, int kWidth, int kM, int kColumns, int kPart>
void start(const Cuda& cuda, const Backward<bf16>& arguments, const WholePieces& whole) {
    using Tile = BackwardTile<kGradients, kWidth, kM, kColumns, kPart>;
    const AttentionProblem& p = arguments.problem;
    const int64_t heads = Tile::kRowsAreKeys ? p.NKV : p.NH;
    const auto blocks =
        static_cast<unsigned>(p.B * heads * tiles_of_rows(Tile::kRowsAreKeys ? p.Tk : p.Tq, Tile::kRows));
    const bool dropout = p.dropout_p > 0.0f;
    if (blocks == 0) return;
    launch({blocks, Tile::kThreads, size_t(Tile::shared_bytes(dropout)), cuda.stream},
           dropout ? attention_backward_mma_kernel<Tile, true> : attention_backward_mma_kernel<Tile, false>, arguments,
           whole);
}

template <int kWidth, int kM, int kColumns, int kPart>
void start_both(const Cuda& cuda, const Backward<bf16>& arguments, const WholePieces& whole) {
    start<Gradients::kKeysAndValues, kWidth, kM, kColumns, kPart>(cuda, arguments, whole);
    start<Gradients::kQueries, kWidth, kM, kColumns, kPart>(cuda, arguments, whole);
}

}  // namespace

void attention_backward_sm80(const Cuda& cuda, bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q,
                             const bf16* k, const bf16* v, const RowStatistics& statistics, const AttentionProblem& p) {
    const Backward<bf16> arguments = backward_arguments(cuda, dq, dk, dv, dout, q, k, v, statistics, p);
    const WholePieces whole{whole_pieces(q, p.q_stride, p.HS),  whole_pieces(k, p.k_stride, p.HS),
                            whole_pieces(v, p.v_stride, p.HS),  whole_pieces(dout, 0, p.HS),
                            whole_pieces(dq, p.q_stride, p.HS), whole_pieces(dk, p.k_stride, p.HS),
                            whole_pieces(dv, p.v_stride, p.HS)};
    if (p.HS <= 32) return start_both<32, 2, 64, 32>(cuda, arguments, whole);
    if (p.HS <= 64) {
        start<Gradients::kKeysAndValues, 64, 2, 64, 16>(cuda, arguments, whole);
        return start<Gradients::kQueries, 64, 2, 64, 32>(cuda, arguments, whole);
    }
    if (p.HS <= 96) return start_both<96, 1, 32, 32>(cuda, arguments, whole);
    if (p.HS <= 128) return start_both<128, 1, 32, 32>(cuda, arguments, whole);
    start<Gradients::kKeys, 256, 1, 16, 16>(cuda, arguments, whole);
    start<Gradients::kValues, 256, 1, 16, 16>(cuda, arguments, whole);
    start<Gradients::kQueries, 256, 1, 16, 16>(cuda, arguments, whole);
}

}  // namespace llmcore
