// Attention backward in float; attention_backward.cuh says which kernels there are and what they add up. A block has a
// tile of rows and goes along tiles of columns; P and dS go through shared memory from the threads that have them to
// those that add up.
#include "cuda/arch/float.cuh"
#include "cuda/attention_backward.cuh"
#include "cuda/attention_simt_tile.cuh"

namespace llmcore {
namespace {

template <bool kRowsAreKeys_, int kTile_, int kWidth_>
struct BackwardTile {
    static constexpr bool kRowsAreKeys = kRowsAreKeys_;
    static constexpr int kTile = kTile_, kWidth = kWidth_;
    using Block = BackwardBlock<kRowsAreKeys, kTile, kTile>;
    using Mask = MaskTile<kTile, kTile>;
    static constexpr int kRowFloats = kTile * kFloatPitch<kWidth>, kScoreFloats = kTile * kScorePitch<kTile>;
    static constexpr int kSharedBytes = (4 * kRowFloats + 2 * kScoreFloats) * 4 + Mask::kBytes;
};

// Which of the pointers and strides allow four floats at once.
struct WholeFours {
    bool q, k, v, dout, dq, dk, dv;
};

// Rows of q and dout, or of k and v, of one head.
struct TwoRows {
    FloatRows first, second;
};

LLMCORE_DEVICE TwoRows query_rows(const Backward<float>& a, const WholeFours& whole, int b, int head) {
    const AttentionProblem& p = a.problem;
    const int Tq = int(p.Tq), HS = int(p.HS);
    return {{a.q + b * p.Tq * p.q_stride + head * p.HS, p.q_stride, 0, Tq, HS, whole.q},
            {a.dout + (b * p.Tq * p.NH + head) * p.HS, p.NH * p.HS, 0, Tq, HS, whole.dout}};
}

LLMCORE_DEVICE TwoRows key_rows(const Backward<float>& a, const WholeFours& whole, int b, int kv,
                                const Visible& visible) {
    const AttentionProblem& p = a.problem;
    const int HS = int(p.HS);
    return {{a.k + b * p.Tk * p.k_stride + kv * p.HS, p.k_stride, visible.begin, visible.end, HS, whole.k},
            {a.v + b * p.Tk * p.v_stride + kv * p.HS, p.v_stride, visible.begin, visible.end, HS, whole.v}};
}

template <class Tile>
__global__ void __launch_bounds__(kSimtThreads) attention_backward_simt_kernel(Backward<float> a, WholeFours whole) {
    constexpr int kTile = Tile::kTile, kWidth = Tile::kWidth, kEach = kTile / 16;
    const AttentionProblem& p = a.problem;
    const int HS = int(p.HS), Tq = int(p.Tq), Tk = int(p.Tk);
    const bool dropout = p.dropout_p > 0.0f;
    const typename Tile::Block block(p, int(blockIdx.x));
    float* first_rows = shared_memory<float>();
    float *second_rows = first_rows + Tile::kRowFloats, *first_columns = second_rows + Tile::kRowFloats;
    float *second_columns = first_columns + Tile::kRowFloats, *probabilities = second_columns + Tile::kRowFloats;
    float* score_gradients = probabilities + Tile::kScoreFloats;
    uint32_t* kept = reinterpret_cast<uint32_t*>(score_gradients + Tile::kScoreFloats);

    const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
    ThreadSums<kTile, kWidth> score_sums = {}, value_sums = {};  // dq or dk without the scale, dv
    if (block.steps > 0) {
        const TwoRows rows = Tile::kRowsAreKeys ? key_rows(a, whole, block.b, block.kv, block.visible)
                                                : query_rows(a, whole, block.b, block.first_head);
        copy_rows<kTile, kWidth>(first_rows, rows.first, block.row);
        copy_rows<kTile, kWidth>(second_rows, rows.second, block.row);
    }
#pragma unroll 1
    for (int step = 0; step < block.steps; ++step) {
        const int head = block.head_of(step), column = block.column_of(step);
        const TwoRows columns = Tile::kRowsAreKeys ? query_rows(a, whole, block.b, head)
                                                   : key_rows(a, whole, block.b, block.kv, block.visible);
        __syncthreads();  // all are done with the last columns
        copy_rows<kTile, kWidth>(first_columns, columns.first, column);
        copy_rows<kTile, kWidth>(second_columns, columns.second, column);
        if (dropout) Tile::Mask::template draw<kSimtThreads>(kept, a.mask.shifted(), block.mask_element(p, step), p.Tk);
        ptx::cp_async_wait_all();
        __syncthreads();  // the columns and the mask are here
        ThreadScores<kTile> scores, gradients;
        multiply_rows<kTile, kWidth>(scores, first_rows, first_columns);
        multiply_rows<kTile, kWidth>(gradients, second_rows, second_columns);
#pragma unroll
        for (int r = 0; r < kEach; ++r)
#pragma unroll
            for (int c = 0; c < kEach; ++c) {
                const int in_rows = y + 16 * r, in_columns = x + 16 * c;
                const int in_queries = Tile::kRowsAreKeys ? in_columns : in_rows;
                const int in_keys = Tile::kRowsAreKeys ? in_rows : in_columns;
                const int query = (Tile::kRowsAreKeys ? column : block.row) + in_queries;
                const bool visible = query < Tq && block.sees(block.row + in_rows, column + in_columns);
                float probability = 0.0f, gradient = 0.0f;
                if (visible) {
                    const int64_t at = (block.b * p.NH + head) * p.Tq + query;
                    const bool keeps = !dropout || Tile::Mask::keeps(kept, in_queries, in_keys);
                    const float factor = keeps ? (dropout ? a.mask.keep_scale : 1.0f) : 0.0f;
                    probability = ptx::exp2_approximate(scores[r][c] * a.scale_log2 - a.statistics.lse2[at]);
                    gradient = probability * (gradients[r][c] * factor - a.statistics.delta[at]);
                    probability *= factor;
                }
                probabilities[in_rows * kScorePitch<kTile> + in_columns] = probability;
                score_gradients[in_rows * kScorePitch<kTile> + in_columns] = gradient;
            }
        __syncthreads();  // P and dS are here
        if constexpr (Tile::kRowsAreKeys) add_weighted_rows<kTile, kWidth>(value_sums, probabilities, second_columns);
        add_weighted_rows<kTile, kWidth>(score_sums, score_gradients, first_columns);
    }

    const float scale = p.scale;
    if constexpr (Tile::kRowsAreKeys) {
        store_rows<kTile, kWidth>(a.dk + block.b * p.Tk * p.k_stride + block.kv * p.HS, p.k_stride, Tk, HS, whole.dk,
                                  block.row, score_sums, [&](int) { return scale; });
        store_rows<kTile, kWidth>(a.dv + block.b * p.Tk * p.v_stride + block.kv * p.HS, p.v_stride, Tk, HS, whole.dv,
                                  block.row, value_sums, [&](int) { return 1.0f; });
    } else {
        store_rows<kTile, kWidth>(a.dq + block.b * p.Tq * p.q_stride + block.first_head * p.HS, p.q_stride, Tq, HS,
                                  whole.dq, block.row, score_sums, [&](int) { return scale; });
    }
}

template <bool kRowsAreKeys, int kTile, int kWidth>
void start(const Cuda& cuda, const Backward<float>& arguments, const WholeFours& whole) {
    using Tile = BackwardTile<kRowsAreKeys, kTile, kWidth>;
    const AttentionProblem& p = arguments.problem;
    const int64_t blocks = p.B * (kRowsAreKeys ? p.NKV : p.NH) * tiles_of_rows(kRowsAreKeys ? p.Tk : p.Tq, kTile);
    if (blocks == 0) return;
    launch({static_cast<unsigned>(blocks), kSimtThreads, Tile::kSharedBytes, cuda.stream},
           attention_backward_simt_kernel<Tile>, arguments, whole);
}

template <int kTile, int kWidth>
void start_both(const Cuda& cuda, const Backward<float>& arguments, const WholeFours& whole) {
    start<true, kTile, kWidth>(cuda, arguments, whole);
    start<false, kTile, kWidth>(cuda, arguments, whole);
}

}  // namespace

void attention_backward_simt(const Cuda& cuda, float* dq, float* dk, float* dv, const float* dout, const float* q,
                             const float* k, const float* v, const RowStatistics& statistics,
                             const AttentionProblem& p) {
    const Backward<float> arguments = backward_arguments(cuda, dq, dk, dv, dout, q, k, v, statistics, p);
    const WholeFours whole{whole_fours(q, p.q_stride, p.HS),  whole_fours(k, p.k_stride, p.HS),
                           whole_fours(v, p.v_stride, p.HS),  whole_fours(dout, 0, p.HS),
                           whole_fours(dq, p.q_stride, p.HS), whole_fours(dk, p.k_stride, p.HS),
                           whole_fours(dv, p.v_stride, p.HS)};
    if (p.HS <= 64) return start_both<32, 64>(cuda, arguments, whole);
    if (p.HS <= 128) return start_both<32, 128>(cuda, arguments, whole);
    start_both<16, 256>(cuda, arguments, whole);
}

}  // namespace llmcore
