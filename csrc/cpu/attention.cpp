// Flash attention on the CPU. A head's keys and values are packed once, in float, into scratch memory of the thread
// that needs them; then blocks of queries run over tiles of keys that stay in the caches.
//
// Forward: one task per block of queries of a head. Backward: one task per key/value head, which adds up its dk and dv
// over all its queries in a fixed order. No sum is shared between tasks, so results do not depend on the threads.
#include "kernels/attention.h"

#include "core/thread_pool.h"
#include "cpu/attention_softmax.h"
#include "cpu/attention_tiles.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

// Hands out consecutive pieces of a thread's scratch memory, or only adds up their sizes where base is null.
struct Scratch {
    float* base;
    int64_t used = 0;

    float* take(int64_t n) {
        float* piece = base ? base + used : nullptr;
        used += (n + 15) / 16 * 16;  // cache lines
        return piece;
    }
};

int64_t padded_keys(const AttentionProblem& p) {
    return (p.Tk + kKeys - 1) / kKeys * kKeys;
}

// ----------------------------------------------------------------------------------------------------------------
// forward

struct ForwardScratch {
    float *k, *v;                // packed head: k as tiles of (HS, kKeys), v as rows
    float *q, *out, *scores;     // of a block of queries; q is scaled
    float *row_max, *row_sum;    // (kQueries), (kQueries, kLanes): sums stay apart by lane until the end
    float *words, *packed_head;  // for the mask; the number of the head that k and v hold, as int64_t

    ForwardScratch(Scratch scratch, const AttentionProblem& p, int64_t* used = nullptr) {
        int64_t keys = padded_keys(p), row = round_to_vectors(p.HS);
        packed_head = scratch.take(2);
        k = scratch.take(keys * p.HS);
        v = scratch.take(keys * row);
        q = scratch.take(kQueries * row);
        out = scratch.take(kQueries * row);
        scores = scratch.take(kQueries * kKeys);
        row_max = scratch.take(kQueries);
        row_sum = scratch.take(kQueries * kLanes);
        words = scratch.take(Mask::kBufferSize);
        if (used != nullptr) *used = scratch.used;
    }
};

int64_t forward_scratch_size(const AttentionProblem& p) {
    int64_t used;
    ForwardScratch(Scratch{nullptr}, p, &used);
    return used;
}

// Only keys that somebody sees are read: what lies beyond the lengths of a cache may be anything, even NaN. The places
// of keys before `begin` keep what they held; no sum includes them.
template <class T>
void pack_keys_transposed(float* tiles, const T* x, int64_t stride, const Visible& visible, int64_t HS) {
    for (int64_t first = visible.begin / kKeys * kKeys; first < visible.end; first += kKeys) {
        int64_t skip = most(0, visible.begin - first) / kLanes * kLanes, end = least(first + kKeys, visible.end);
        pack_transposed(tiles + first * HS + skip, kKeys, x + (first + skip) * stride, stride, end - first - skip, HS);
    }
}

template <class T>
void pack_key_rows(float* rows, const T* x, int64_t stride, const Visible& visible, int64_t HS) {
    int64_t begin = visible.begin;
    pack_rows(rows + begin * round_to_vectors(HS), x + begin * stride, stride, visible.end - begin, HS, 1.0f);
}

template <class T>
void forward_block(T* out, float* lse, const T* q, const ForwardScratch& scratch, const Visible& visible,
                   const AttentionProblem& p, int64_t head, int64_t query) {
    int64_t n = least(kQueries, p.Tq - query), row = round_to_vectors(p.HS);
    Mask mask(p, scratch.words);
    pack_rows(scratch.q, q + query * p.q_stride, p.q_stride, n, p.HS, p.scale);
    prefetch_for_writing(out + query * p.NH * p.HS, p.NH * p.HS, n, p.HS);
    std::memset(scratch.out, 0, n * row * sizeof(float));
    std::memset(scratch.row_sum, 0, n * kLanes * sizeof(float));
    for (int64_t i = 0; i < n; ++i) scratch.row_max[i] = -kInfinity;

    for (int64_t first = visible.begin / kKeys * kKeys; first < visible.end_of(query + n - 1); first += kKeys) {
        Tile tile(visible, first, query, n);
        tile_product<false>(
            scratch.scores, kKeys, scratch.q, row, scratch.k + first * p.HS, kKeys, n, false,
            [&](int64_t, int64_t last) { return Part{round_to_vectors(tile.high(last)) / kLanes, 0, p.HS}; });
        for (int64_t i = 0; i < n; ++i)
            softmax_row(scratch.scores + i * kKeys, scratch.row_max[i], scratch.row_sum + i * kLanes,
                        scratch.out + i * row, row, tile, i, head, mask);
        tile_product<false>(scratch.out, row, scratch.scores, kKeys, scratch.v + first * row, row, n, true,
                            [&](int64_t, int64_t last) { return Part{row / kLanes, tile.low, tile.high(last)}; });
    }

    for (int64_t i = 0; i < n; ++i) {
        float total = sum(load(scratch.row_sum + i * kLanes));
        bool any = scratch.row_max[i] != -kInfinity;
        unpack_rows(out + (query + i) * p.NH * p.HS, 0, scratch.out + i * row, 1, p.HS, any ? 1.0f / total : 0.0f);
        if (lse != nullptr)
            lse[head * p.Tq + query + i] = any ? scratch.row_max[i] + __builtin_logf(total) : -kInfinity;
    }
}

// ----------------------------------------------------------------------------------------------------------------
// backward

struct BackwardScratch {
    float *k, *k_transposed, *v_transposed;  // packed head
    float *dk, *dv;                          // rows, sums over all queries
    float *q, *dout, *dq;                    // of a block of queries; q is scaled
    float *scores, *dscores;                 // (kQueries, kKeys): become the masked probabilities, and their gradients
    float* words;

    BackwardScratch(Scratch scratch, const AttentionProblem& p, int64_t* used = nullptr) {
        int64_t keys = padded_keys(p), row = round_to_vectors(p.HS);
        k = scratch.take(keys * row);
        k_transposed = scratch.take(keys * p.HS);
        v_transposed = scratch.take(keys * p.HS);
        dk = scratch.take(keys * row);
        dv = scratch.take(keys * row);
        q = scratch.take(kQueries * row);
        dout = scratch.take(kQueries * row);
        dq = scratch.take(kQueries * row);
        scores = scratch.take(kQueries * kKeys);
        dscores = scratch.take(kQueries * kKeys);
        words = scratch.take(Mask::kBufferSize);
        if (used != nullptr) *used = scratch.used;
    }
};

int64_t backward_scratch_size(const AttentionProblem& p) {
    int64_t used;
    BackwardScratch(Scratch{nullptr}, p, &used);
    return used;
}

// One block of queries of one head: writes dq, adds to the dk and dv of the scratch memory.
template <class T>
void backward_block(T* dq, const T* dout, const T* q, const T* out, const float* lse, const BackwardScratch& scratch,
                    const Visible& visible, const AttentionProblem& p, int64_t head, int64_t query) {
    int64_t n = least(kQueries, p.Tq - query), row = round_to_vectors(p.HS), out_stride = p.NH * p.HS;
    Mask mask(p, scratch.words);
    pack_rows(scratch.q, q + query * p.q_stride, p.q_stride, n, p.HS, p.scale);
    pack_rows(scratch.dout, dout + query * out_stride, out_stride, n, p.HS, 1.0f);
    prefetch_for_writing(dq + query * p.q_stride, p.q_stride, n, p.HS);
    std::memset(scratch.dq, 0, n * row * sizeof(float));
    float delta[kQueries];  // sum over j of P * dP, which equals out . dout
    for (int64_t i = 0; i < n; ++i) {
        Vec sums{};
        const T* out_i = out + (query + i) * out_stride;
        if (i + kRowsAhead < n) prefetch_row(out_i + kRowsAhead * out_stride, p.HS);
        for_each_vector(p.HS, [&](auto at) { sums += at.load(out_i) * load(scratch.dout + i * row + at.column); });
        delta[i] = sum(sums);
    }

    for (int64_t first = visible.begin / kKeys * kKeys; first < visible.end_of(query + n - 1); first += kKeys) {
        Tile tile(visible, first, query, n);
        auto seen_columns = [&](int64_t, int64_t last) {
            return Part{round_to_vectors(tile.high(last)) / kLanes, 0, p.HS};
        };
        tile_product<false>(scratch.scores, kKeys, scratch.q, row, scratch.k_transposed + first * p.HS, kKeys, n, false,
                            seen_columns);
        tile_product<false>(scratch.dscores, kKeys, scratch.dout, row, scratch.v_transposed + first * p.HS, kKeys, n,
                            false, seen_columns);
        for (int64_t i = 0; i < n; ++i)
            softmax_backward_row(scratch.scores + i * kKeys, scratch.dscores + i * kKeys, lse[query + i], delta[i],
                                 tile, i, head, mask);
        auto seeing_queries = [&](int64_t j, int64_t) { return Part{row / kLanes, tile.first_seeing(j), n}; };
        tile_product<true>(scratch.dv + first * row, row, scratch.scores, kKeys, scratch.dout, row, tile.size, true,
                           seeing_queries);
        tile_product<true>(scratch.dk + first * row, row, scratch.dscores, kKeys, scratch.q, row, tile.size, true,
                           seeing_queries);
        tile_product<false>(scratch.dq, row, scratch.dscores, kKeys, scratch.k + first * row, row, n, true,
                            [&](int64_t, int64_t last) { return Part{row / kLanes, tile.low, tile.high(last)}; });
    }
    unpack_rows(dq + query * p.q_stride, p.q_stride, scratch.dq, n, p.HS, p.scale);
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void attention_forward(Backend, T* out, float* lse, const T* q, const T* k, const T* v, float* workspace,
                       const AttentionProblem& problem) {
    const AttentionProblem p = problem;
    int64_t stride = forward_scratch_size(p), blocks = (p.Tq + kQueries - 1) / kQueries, group = p.NH / p.NKV;
    for (int worker = 0; worker < num_threads(); ++worker) {
        const int64_t none = -1;
        std::memcpy(ForwardScratch(Scratch{workspace + worker * stride}, p).packed_head, &none, sizeof none);
    }
    parallel_tasks(p.B * p.NH * blocks, [=](int64_t task, int worker) {
        ForwardScratch scratch(Scratch{workspace + worker * stride}, p);
        // A causal head's late blocks are the long ones: 0, last, 1, last - 1, ... gives threads equal shares.
        int64_t head = task / blocks, turn = task % blocks, block = turn % 2 ? blocks - 1 - turn / 2 : turn / 2;
        int64_t b = head / p.NH, h = head % p.NH, kv = h / group, kv_head = b * p.NKV + kv, packed;
        Visible visible = visible_keys(p, b);
        std::memcpy(&packed, scratch.packed_head, sizeof packed);
        if (packed != kv_head) {
            pack_keys_transposed(scratch.k, k + b * p.Tk * p.k_stride + kv * p.HS, p.k_stride, visible, p.HS);
            pack_key_rows(scratch.v, v + b * p.Tk * p.v_stride + kv * p.HS, p.v_stride, visible, p.HS);
            std::memcpy(scratch.packed_head, &kv_head, sizeof kv_head);
        }
        forward_block(out + b * p.Tq * p.NH * p.HS + h * p.HS, lse, q + b * p.Tq * p.q_stride + h * p.HS, scratch,
                      visible, p, head, block * kQueries);
    });
}

template <class Backend>
size_t attention_forward_workspace(Backend, const AttentionProblem& problem) {
    return static_cast<size_t>(num_threads() * forward_scratch_size(problem));
}

template <class Backend, class T>
void attention_backward(Backend, T* dq, T* dk, T* dv, const T* dout, const T* q, const T* k, const T* v, const T* out,
                        const float* lse, float* workspace, const AttentionProblem& problem) {
    const AttentionProblem p = problem;
    int64_t stride = backward_scratch_size(p), group = p.NH / p.NKV, row = round_to_vectors(p.HS);
    parallel_tasks(p.B * p.NKV, [=](int64_t task, int worker) {
        BackwardScratch scratch(Scratch{workspace + worker * stride}, p);
        int64_t b = task / p.NKV, kv = task % p.NKV;
        int64_t k_at = b * p.Tk * p.k_stride + kv * p.HS, v_at = b * p.Tk * p.v_stride + kv * p.HS;
        Visible visible = visible_keys(p, b);
        pack_key_rows(scratch.k, k + k_at, p.k_stride, visible, p.HS);
        pack_keys_transposed(scratch.k_transposed, k + k_at, p.k_stride, visible, p.HS);
        pack_keys_transposed(scratch.v_transposed, v + v_at, p.v_stride, visible, p.HS);
        std::memset(scratch.dk, 0, p.Tk * row * sizeof(float));
        std::memset(scratch.dv, 0, p.Tk * row * sizeof(float));
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            int64_t head = b * p.NH + h, q_at = b * p.Tq * p.q_stride + h * p.HS;
            int64_t out_at = b * p.Tq * p.NH * p.HS + h * p.HS;
            for (int64_t query = 0; query < p.Tq; query += kQueries)
                backward_block(dq + q_at, dout + out_at, q + q_at, out + out_at, lse + head * p.Tq, scratch, visible, p,
                               head, query);
        }
        unpack_rows(dk + k_at, p.k_stride, scratch.dk, p.Tk, p.HS, 1.0f);  // q was scaled, so dk is
        unpack_rows(dv + v_at, p.v_stride, scratch.dv, p.Tk, p.HS, 1.0f);
    });
}

template <class Backend>
size_t attention_backward_workspace(Backend, const AttentionProblem& problem) {
    return static_cast<size_t>(num_threads() * backward_scratch_size(problem));
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(attention_forward, Cpu, float)
LLMCORE_INSTANTIATE(attention_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(attention_forward_workspace, Cpu)
LLMCORE_INSTANTIATE(attention_backward, Cpu, float)
LLMCORE_INSTANTIATE(attention_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(attention_backward_workspace, Cpu)

}  // namespace llmcore
