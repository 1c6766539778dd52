// Flash attention forward in float: every product and every sum is a multiply-add of float, as on the CPU.
//
// A block has a tile of queries of one head and goes along the keys tile by tile; keys and then values lie in the same
// shared memory, and probabilities go through it from the threads that have them to those that add up the values.
#include "cuda/arch/float.cuh"
#include "cuda/attention_simt_tile.cuh"
#include "cuda/attention_variants.cuh"
#include "cuda/warp.cuh"

namespace llmcore {
namespace {

template <int kTile_, int kWidth_>
struct ForwardTile {
    static constexpr int kTile = kTile_, kWidth = kWidth_, kEach = kTile / 16;
    using Mask = MaskTile<kTile, kTile>;
    static constexpr int kRowFloats = kTile * kFloatPitch<kWidth>, kScoreFloats = kTile * kScorePitch<kTile>;
    static constexpr int kSharedBytes = (2 * kRowFloats + kScoreFloats) * 4 + Mask::kBytes;
};

struct Forward {
    float *out, *lse;  // lse may be null
    const float *q, *k, *v;
    AttentionProblem problem;
    DropoutMask mask;
    bool whole_q, whole_k, whole_v, whole_out;
};

// Over the 16 threads that share a row.
template <class Combine>
LLMCORE_DEVICE float combine_row(float value, Combine&& combine) {
#pragma unroll
    for (int bits = 8; bits; bits /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, bits));
    return value;
}

template <class Tile>
__global__ void __launch_bounds__(kSimtThreads) attention_forward_simt_kernel(Forward a) {
    constexpr int kTile = Tile::kTile, kWidth = Tile::kWidth, kEach = Tile::kEach;
    const AttentionProblem& p = a.problem;
    const int Tq = int(p.Tq), NH = int(p.NH), HS = int(p.HS);
    const int blocks = (Tq + kTile - 1) / kTile;
    const int head = int(blockIdx.x) / blocks, b = head / NH, h = head % NH, kv = h / (NH / int(p.NKV));
    // The last queries see the most keys: their blocks begin first.
    const int query = (blocks - 1 - int(blockIdx.x) % blocks) * kTile;
    const Visible visible = visible_keys(p, b);
    const int begin = visible.begin / kTile * kTile, end = visible.end_of(least(query + kTile, Tq) - 1);
    const bool dropout = p.dropout_p > 0.0f;

    const FloatRows q{a.q + b * p.Tq * p.q_stride + h * p.HS, p.q_stride, 0, Tq, HS, a.whole_q};
    const FloatRows k{a.k + b * p.Tk * p.k_stride + kv * p.HS, p.k_stride, visible.begin, visible.end, HS, a.whole_k};
    const FloatRows v{a.v + b * p.Tk * p.v_stride + kv * p.HS, p.v_stride, visible.begin, visible.end, HS, a.whole_v};
    float* q_tile = shared_memory<float>();
    float *kv_tile = q_tile + Tile::kRowFloats, *probabilities = kv_tile + Tile::kRowFloats;
    uint32_t* kept = reinterpret_cast<uint32_t*>(probabilities + Tile::kScoreFloats);

    const int x = int(threadIdx.x) % 16, y = int(threadIdx.x) / 16;
    const float scale_log2 = p.scale * kLog2E;
    ThreadSums<kTile, kWidth> out = {};
    float row_max[kEach], row_sum[kEach];  // of row y + 16 r, the former in units of log2
#pragma unroll
    for (int r = 0; r < kEach; ++r) row_max[r] = -INFINITY, row_sum[r] = 0.0f;
    if (begin < end) copy_rows<kTile, kWidth>(q_tile, q, query);
#pragma unroll 1
    for (int key = begin; key < end; key += kTile) {
        __syncthreads();  // all are done with the last values and probabilities
        copy_rows<kTile, kWidth>(kv_tile, k, key);
        if (dropout)
            Tile::Mask::template draw<kSimtThreads>(
                kept, a.mask.shifted(),
                (uint64_t(head) * uint64_t(p.Tq) + uint64_t(query)) * uint64_t(p.Tk) + uint64_t(key), p.Tk);
        ptx::cp_async_wait_all();
        __syncthreads();  // the keys and the mask are here
        ThreadScores<kTile> scores;
        multiply_rows<kTile, kWidth>(scores, q_tile, kv_tile);
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
            const int i = y + 16 * r;
            float largest = -INFINITY;
#pragma unroll
            for (int c = 0; c < kEach; ++c) {
                const bool sees = visible.sees(query + i, key + x + 16 * c);
                scores[r][c] = sees ? scores[r][c] * scale_log2 : -INFINITY;
                largest = fmaxf(largest, scores[r][c]);
            }
            largest = combine_row(largest, [](float m, float n) { return fmaxf(m, n); });
            largest = fmaxf(row_max[r], largest);
            // Where nothing is visible yet, zero: -infinity minus itself would be no number.
            const float shift = largest == -INFINITY ? 0.0f : largest;
            const float shrink = ptx::exp2_approximate(row_max[r] - shift);
            row_max[r] = largest;
            row_sum[r] *= shrink;
#pragma unroll
            for (int c = 0; c < kEach; ++c) {
                const int j = x + 16 * c;
                const float probability = ptx::exp2_approximate(scores[r][c] - shift);
                row_sum[r] += probability;
                const bool keeps = !dropout || Tile::Mask::keeps(kept, i, j);
                probabilities[i * kScorePitch<kTile> + j] = keeps ? probability : 0.0f;
            }
#pragma unroll
            for (int g = 0; g < kWidth / 64; ++g)
#pragma unroll
                for (int n = 0; n < 4; ++n) out[r][g][n] *= shrink;
        }
        __syncthreads();  // the probabilities are here, and all are done with the keys
        copy_rows<kTile, kWidth>(kv_tile, v, key);
        ptx::cp_async_wait_all();
        __syncthreads();  // the values are here
        add_weighted_rows<kTile, kWidth>(out, probabilities, kv_tile);
    }

    float factor[kEach];
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
        const float sum = combine_row(row_sum[r], [](float m, float n) { return m + n; });
        factor[r] = sum == 0.0f ? 0.0f : (dropout ? a.mask.keep_scale : 1.0f) / sum;
        const int row = query + y + 16 * r;
        if (a.lse != nullptr && x == 0 && row < Tq)
            a.lse[int64_t(head) * p.Tq + row] = sum == 0.0f ? -INFINITY : row_max[r] * kLn2 + logf(sum);
    }
    store_rows<kTile, kWidth>(a.out + (b * p.Tq * p.NH + h) * p.HS, p.NH * p.HS, Tq, HS, a.whole_out, query, out,
                              [&](int r) { return factor[r]; });
}

template <class Tile>
void start(const Cuda& cuda, const Forward& arguments) {
    const AttentionProblem& p = arguments.problem;
    const auto blocks = static_cast<unsigned>(p.B * p.NH * tiles_of_rows(p.Tq, Tile::kTile));
    launch({blocks, kSimtThreads, Tile::kSharedBytes, cuda.stream}, attention_forward_simt_kernel<Tile>, arguments);
}

}  // namespace

void attention_forward_simt(const Cuda& cuda, float* out, float* lse, const float* q, const float* k, const float* v,
                            const AttentionProblem& p) {
    const Forward arguments{out,
                            lse,
                            q,
                            k,
                            v,
                            p,
                            dropout_mask(cuda, p),
                            whole_fours(q, p.q_stride, p.HS),
                            whole_fours(k, p.k_stride, p.HS),
                            whole_fours(v, p.v_stride, p.HS),
                            whole_fours(out, 0, p.HS)};
    if (p.HS <= 64)
        start<ForwardTile<64, 64>>(cuda, arguments);
    else if (p.HS <= 128)
        start<ForwardTile<64, 128>>(cuda, arguments);
    else
        start<ForwardTile<32, 256>>(cuda, arguments);
}

}  // namespace llmcore
