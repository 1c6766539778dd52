// Attention of a few queries over a cache: what costs is reading the keys and values, so they are read once and in
// place, and not packed as in attention.cpp. One task per key/value head.
#include "core/thread_pool.h"
#include "cpu/attention_softmax.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

int64_t scratch_size(const AttentionProblem& p) {
    int64_t row = round_to_vectors(p.HS), rows = p.NH / p.NKV * p.Tq;
    return (rows * (2 * row + kLanes) + rows + kKeys + 15) / 16 * 16;
}

// scores[j] = q . k[j] for `size` keys: kLanes dot products at a time, whose lanes are added after a transposition.
template <class T>
void key_scores(float* scores, const float* q, const T* k, int64_t stride, int64_t size, int64_t HS) {
    for (int64_t j0 = 0; j0 < size; j0 += kLanes) {
        Vec sums[kLanes] = {};
        for (int64_t j = 0; j < kLanes && j0 + j < size; ++j)
            for_each_vector(HS, [&](auto at) { sums[j] += load(q + at.column) * at.load(k + (j0 + j) * stride); });
        transpose(sums);
        Vec total{};
        for (int i = 0; i < kLanes; ++i) total += sums[i];
        store(scores + j0, total);
    }
}

// out += sum over j in [low, high) of p[j] * v[j]
template <class T>
void add_values(float* out, const float* p, const T* v, int64_t stride, int64_t low, int64_t high, int64_t HS) {
    for_each_vector(HS, [&](auto at) {
        Vec sums[4] = {};  // four chains of additions, because one would wait for itself
        for (int64_t j = low; j < high; ++j) sums[j % 4] += p[j] * at.load(v + j * stride);
        store(out + at.column, load(out + at.column) + ((sums[0] + sums[1]) + (sums[2] + sums[3])));
    });
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void attention_decode(Backend, T* out, const T* q, const T* k, const T* v, float* workspace,
                      const AttentionProblem& problem) {
    AttentionProblem p = problem;
    p.dropout_p = 0.0f;
    int64_t stride = scratch_size(p), group = p.NH / p.NKV, row = round_to_vectors(p.HS), rows = group * p.Tq;
    parallel_tasks(p.B * p.NKV, [=](int64_t task, int worker) {
        int64_t b = task / p.NKV, kv = task % p.NKV;
        float* packed_q = workspace + worker * stride;
        float *sums = packed_q + rows * row, *row_sum = sums + rows * row, *scores = row_sum + rows * kLanes;
        float* row_max = scores + kKeys;
        Mask mask(p, nullptr);
        Visible visible = visible_keys(p, b);
        for (int64_t r = 0; r < rows; ++r) {  // query r % Tq of head r / Tq of the group
            const T* q_r = q + (b * p.Tq + r % p.Tq) * p.q_stride + (kv * group + r / p.Tq) * p.HS;
            pack_rows(packed_q + r * row, q_r, 0, 1, p.HS, p.scale);
            row_max[r] = -kInfinity;
        }
        std::memset(sums, 0, rows * (row + kLanes) * sizeof(float));  // and row_sum
        const T* k_b = k + b * p.Tk * p.k_stride + kv * p.HS;
        const T* v_b = v + b * p.Tk * p.v_stride + kv * p.HS;
        for (int64_t first = visible.begin / kKeys * kKeys; first < visible.end; first += kKeys) {
            for (int64_t r = 0; r < rows; ++r) {
                Tile tile(visible, first, 0, p.Tq);
                int64_t i = r % p.Tq, low = tile.low, high = tile.high(i);
                if (high <= low) continue;
                int64_t skip = low / kLanes * kLanes;
                key_scores(scores + skip, packed_q + r * row, k_b + (first + skip) * p.k_stride, p.k_stride,
                           high - skip, p.HS);
                softmax_row(scores, row_max[r], row_sum + r * kLanes, sums + r * row, row, tile, i, 0, mask);
                add_values(sums + r * row, scores, v_b + first * p.v_stride, p.v_stride, low, high, p.HS);
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            T* out_r = out + (b * p.Tq + r % p.Tq) * p.NH * p.HS + (kv * group + r / p.Tq) * p.HS;
            float factor = row_max[r] != -kInfinity ? 1.0f / sum(load(row_sum + r * kLanes)) : 0.0f;
            unpack_rows(out_r, 0, sums + r * row, 1, p.HS, factor);
        }
    });
}

template <class Backend>
size_t attention_decode_workspace(Backend, const AttentionProblem& problem) {
    return static_cast<size_t>(num_threads() * scratch_size(problem));
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(attention_decode, Cpu, float)
LLMCORE_INSTANTIATE(attention_decode, Cpu, bf16)
LLMCORE_INSTANTIATE(attention_decode_workspace, Cpu)

}  // namespace llmcore
