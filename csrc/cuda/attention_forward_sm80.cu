// Flash attention forward in bf16 with float sums, for compute capability 8.0 and later (Dao 2023, "FlashAttention-2",
// arXiv:2307.08691, algorithm 1).
//
// A block has four warps and 64 or 128 queries of one head, each warp its own rows of them, and goes along the keys in
// tiles of 64. While the scores of a tile are computed, its values are on the way; while the values are added up, the
// next keys are. Scores become probabilities, and these the operand of the second product, without leaving the
// registers.
#include <algorithm>
#include <cmath>

#include "cuda/attention_tile.cuh"
#include "cuda/attention_variants.cuh"
#include "cuda/warp.cuh"

namespace llmcore {
namespace {

// Heads of up to kWidth columns; kM: a warp has 16 kM queries. As many as the registers hold: each fragment of keys and
// values that a warp loads then serves kM products.
template <int kWidth_, int kM_>
struct ForwardTile {
    static constexpr int kWidth = kWidth_, kM = kM_, kWarps = 4, kThreads = 32 * kWarps;
    static constexpr int kQueries = 16 * kM * kWarps, kKeys = 64;
    static constexpr int kBytesQ = HeadTile<kQueries, kWidth>::kBytes, kBytesK = HeadTile<kKeys, kWidth>::kBytes;
    using Mask = MaskTile<kQueries, kKeys>;
    static constexpr int shared_bytes(bool dropout) { return kBytesQ + 2 * kBytesK + (dropout ? Mask::kBytes : 0); }
};

struct Forward {
    bf16* out;
    float* lse;  // or null
    const bf16 *q, *k, *v;
    AttentionProblem problem;
    DropoutMask mask;
    float scale_log2;  // |scale| * log2(e)
    bool negate_q;     // scale is negative
    bool whole_q, whole_k, whole_v, whole_out;
};

// The maximum and the sum of a lane's rows 16 i + 8 r + lane / 4, the former in units of log2; of the latter the lane
// has its columns' part until the end.
template <int kM>
struct RowStates {
    float largest[kM][2], sum[kM][2];
};

// Turns a tile's scores into probabilities relative to the largest score so far, and makes `out` relative to it, too.
template <class Tile>
LLMCORE_DEVICE void online_softmax(WarpSums<Tile::kM, Tile::kKeys>& scores, WarpSums<Tile::kM, Tile::kWidth>& out,
                                   RowStates<Tile::kM>& rows, float scale_log2) {
#pragma unroll
    for (int i = 0; i < Tile::kM; ++i)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float largest = -INFINITY;
#pragma unroll
            for (int j = 0; j < Tile::kKeys / 8; ++j)
                largest = fmaxf(largest, fmaxf(scores[i][j][2 * r], scores[i][j][2 * r + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
            largest = fmaxf(rows.largest[i][r], largest * scale_log2);
            // Where nothing is visible yet, zero: -infinity minus itself would be no number.
            const float shift = largest == -INFINITY ? 0.0f : largest;
            const float shrink = ptx::exp2_approximate(rows.largest[i][r] - shift);
            rows.largest[i][r] = largest;
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < Tile::kKeys / 8; ++j)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; ++e) {
                    scores[i][j][e] = ptx::exp2_approximate(scores[i][j][e] * scale_log2 - shift);
                    sum += scores[i][j][e];
                }
            rows.sum[i][r] = rows.sum[i][r] * shrink + sum;
#pragma unroll
            for (int j = 0; j < Tile::kWidth / 8; ++j) {
                out[i][j][2 * r] *= shrink;
                out[i][j][2 * r + 1] *= shrink;
            }
        }
}

// The largest score belongs to the largest product only if the scale is positive: else the queries change sign.
template <int kBytes, int kThreads>
LLMCORE_DEVICE void negate_tile(const SharedTile& tile) {
    ptx::cp_async_wait_all();
    __syncthreads();
    for (int at = int(threadIdx.x) * 4; at < kBytes; at += kThreads * 4)
        *reinterpret_cast<uint32_t*>(tile.memory + at) ^= 0x80008000u;
}

template <class Tile, bool kDropout>
__global__ void __launch_bounds__(Tile::kThreads) attention_forward_mma_kernel(Forward a) {
    const AttentionProblem& p = a.problem;
    const int Tq = int(p.Tq), NH = int(p.NH), HS = int(p.HS);
    const int blocks = (Tq + Tile::kQueries - 1) / Tile::kQueries;
    const int head = int(blockIdx.x) / blocks, b = head / NH, h = head % NH, kv = h / (NH / int(p.NKV));
    // The last queries see the most keys: their blocks begin first.
    const int query = (blocks - 1 - int(blockIdx.x) % blocks) * Tile::kQueries;
    const Visible visible = visible_keys(p, b);
    const int begin = visible.begin / Tile::kKeys * Tile::kKeys;
    const int end = visible.end_of(least(query + Tile::kQueries, Tq) - 1);

    const HeadRows q{a.q + b * p.Tq * p.q_stride + h * p.HS, p.q_stride, 0, Tq, HS, a.whole_q};
    const HeadRows k{a.k + b * p.Tk * p.k_stride + kv * p.HS, p.k_stride, visible.begin, visible.end, HS, a.whole_k};
    const HeadRows v{a.v + b * p.Tk * p.v_stride + kv * p.HS, p.v_stride, visible.begin, visible.end, HS, a.whole_v};
    const SharedTile q_tile{shared_memory<char>(), shared_address(shared_memory<char>())};
    const SharedTile k_tile = q_tile.at(Tile::kBytesQ), v_tile = k_tile.at(Tile::kBytesK);
    uint32_t* kept = reinterpret_cast<uint32_t*>(v_tile.at(Tile::kBytesK).memory);

    const int warp_row = int(threadIdx.x) / 32 * 16 * Tile::kM;
    const auto q_rows = rows_first<Tile::kQueries>(q_tile.address, warp_row);
    const auto k_rows = columns_first<Tile::kKeys>(k_tile.address, 0);
    const auto v_rows = rows_first<Tile::kKeys>(v_tile.address, 0);
    WarpSums<Tile::kM, Tile::kWidth> out = {};
    RowStates<Tile::kM> rows;
#pragma unroll
    for (int i = 0; i < Tile::kM; ++i)
#pragma unroll
        for (int r = 0; r < 2; ++r) rows.largest[i][r] = -INFINITY, rows.sum[i][r] = 0.0f;

    if (begin < end) {
        copy_rows<Tile::kQueries, Tile::kWidth, Tile::kThreads>(q_tile, q, query);
        copy_rows<Tile::kKeys, Tile::kWidth, Tile::kThreads>(k_tile, k, begin);
        if (a.negate_q) negate_tile<Tile::kBytesQ, Tile::kThreads>(q_tile);
    }
#pragma unroll 1
    for (int key = begin; key < end; key += Tile::kKeys) {
        ptx::cp_async_wait_all();
        __syncthreads();  // the keys are here for all, and all are done with the last values
        copy_rows<Tile::kKeys, Tile::kWidth, Tile::kThreads>(v_tile, v, key);
        if constexpr (kDropout)
            Tile::Mask::template draw<Tile::kThreads>(
                kept, a.mask.shifted(),
                (uint64_t(head) * uint64_t(p.Tq) + uint64_t(query)) * uint64_t(p.Tk) + uint64_t(key), p.Tk);
        WarpSums<Tile::kM, Tile::kKeys> scores;
        multiply_rows<Tile::kWidth, Tile::kM, Tile::kKeys>(scores, q_rows, k_rows, 0);
        const int first = query + warp_row;
        if (key < visible.begin || key + Tile::kKeys > visible.end_of(first))
            for_elements_of<Tile::kM, Tile::kKeys>(scores, first, key, [&](float& score, int i, int j) {
                if (!visible.sees(i, j)) score = -INFINITY;
            });
        online_softmax<Tile>(scores, out, rows, a.scale_log2);
        WarpOperands<Tile::kM, Tile::kKeys> probabilities;
        round_sums<Tile::kM, Tile::kKeys>(probabilities, scores);
        ptx::cp_async_wait_all();
        __syncthreads();  // the values and the mask are here, and all are done with the keys
        if (key + Tile::kKeys < end) copy_rows<Tile::kKeys, Tile::kWidth, Tile::kThreads>(k_tile, k, key + Tile::kKeys);
        if constexpr (kDropout) Tile::Mask::template apply<Tile::kM>(probabilities, kept, warp_row);
        add_weighted_rows<Tile::kWidth, Tile::kM, Tile::kKeys>(out, probabilities, v_rows, 0);
    }

    const int lane = int(threadIdx.x) % 32;
    float factor[Tile::kM][2];
#pragma unroll
    for (int i = 0; i < Tile::kM; ++i)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float sum = rows.sum[i][r];
            sum += __shfl_xor_sync(kAllLanes, sum, 1);
            sum += __shfl_xor_sync(kAllLanes, sum, 2);
            factor[i][r] = sum == 0.0f ? 0.0f : (kDropout ? a.mask.keep_scale : 1.0f) / sum;
            const int row = query + warp_row + 16 * i + 8 * r + lane / 4;
            if (a.lse != nullptr && lane % 4 == 0 && row < Tq)
                a.lse[int64_t(head) * p.Tq + row] = sum == 0.0f ? -INFINITY : rows.largest[i][r] * kLn2 + logf(sum);
        }
    const HeadResult result{a.out + (b * p.Tq * p.NH + h) * p.HS, p.NH * p.HS, Tq, HS, a.whole_out};
    store_rows<Tile::kQueries, Tile::kWidth, Tile::kM>(result, query + warp_row, q_tile, warp_row, out,
                                                       [&](int i, int r) { return factor[i][r]; });
}

// ---------------------------------------------------------------------------------------------------------------------
// launch

template <class Tile, bool kDropout>
void start(const Cuda& cuda, const Forward& arguments) {
    const AttentionProblem& p = arguments.problem;
    const auto blocks = static_cast<unsigned>(p.B * p.NH * tiles_of_rows(p.Tq, Tile::kQueries));
    launch({blocks, Tile::kThreads, size_t(Tile::shared_bytes(kDropout)), cuda.stream},
           attention_forward_mma_kernel<Tile, kDropout>, arguments);
}

template <bool kDropout>
void start_for_width(const Cuda& cuda, const Forward& arguments) {
    const int64_t HS = arguments.problem.HS;
    if (HS <= 32) return start<ForwardTile<32, 2>, kDropout>(cuda, arguments);
    if (HS <= 64) return start<ForwardTile<64, 2>, kDropout>(cuda, arguments);
    if (HS <= 96) return start<ForwardTile<96, 2>, kDropout>(cuda, arguments);
    // Drawing a mask takes registers, too.
    if (HS <= 128) return start<ForwardTile<128, kDropout ? 1 : 2>, kDropout>(cuda, arguments);
    start<ForwardTile<256, 1>, kDropout>(cuda, arguments);
}

}  // namespace

void attention_forward_sm80(const Cuda& cuda, bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                            const AttentionProblem& p) {
    // Zero would make no number of the infinities that stand for what is not visible; this makes zero of every score.
    const float scale_log2 = std::max(std::abs(p.scale) * kLog2E, 1e-30f);
    const Forward arguments{out,
                            lse,
                            q,
                            k,
                            v,
                            p,
                            dropout_mask(cuda, p),
                            scale_log2,
                            p.scale < 0.0f,
                            whole_pieces(q, p.q_stride, p.HS),
                            whole_pieces(k, p.k_stride, p.HS),
                            whole_pieces(v, p.v_stride, p.HS),
                            whole_pieces(out, 0, p.HS)};
    if (p.dropout_p > 0.0f)
        start_for_width<true>(cuda, arguments);
    else
        start_for_width<false>(cuda, arguments);
}

}  // namespace llmcore
