// Flash attention as in attention.cpp, for bf16 on processors that multiply it: all products have bf16 operands and
// float sums; the softmax is float. Only the levels above AVX-512 compile this.
//
// Everything is transposed. Scores are (keys, queries), so a vector holds 16 queries and the softmax needs no sum or
// maximum across lanes; the probabilities come out row by row in the order in which the next product wants them.
#include "core/thread_pool.h"
#include "cpu/attention_bf16_tiles.h"
#include "cpu/attention_softmax.h"
#include "cpu/target.h"
#include "kernels/attention.h"

namespace llmcore {
namespace {

static_assert(kQueries % kBlock == 0 && kKeys % kBlock == 0);

// Hands out consecutive pieces of a thread's scratch memory, or only adds up their sizes where base is null.
struct Scratch {
    float* base;
    int64_t used = 0;

    float* take(int64_t n) {
        float* piece = base ? base + used : nullptr;
        used += (n + 15) / 16 * 16;  // cache lines
        return piece;
    }
    uint32_t* take_units(int64_t n) { return reinterpret_cast<uint32_t*>(take(n)); }
};

int64_t tiles_of_keys(const AttentionProblem& p) {
    return (p.Tk + kKeys - 1) / kKeys;
}

// ----------------------------------------------------------------------------------------------------------------
// what is visible in a transposed tile

// Queries, rounded to whole blocks; those beyond the last one are zeros in every operand.
LLMCORE_INLINE int64_t columns_of(const Tile& tile) {
    return round_to_blocks(tile.queries);
}

// The first query that sees key j of the tile; behind the last column if none does.
LLMCORE_INLINE int64_t first_column(const Tile& tile, int64_t j) {
    return most(0, tile.first + j + 1 - tile.visible.diagonal - tile.query);
}

// The keys that a vector of queries from `column` on sees: all of them those in [low, full), some those in [full, end).
struct Keys {
    int64_t low, full, end;

    Keys(const Tile& tile, int64_t column)
        : low(tile.low), full(most(low, tile.high(column))), end(most(low, tile.high(column + kLanes - 1))) {}
};

// Whole blocks of keys that a block of queries from `column` on sees, [begin, end): outside probabilities are not even
// written.
struct KeyBlocks {
    int64_t begin, end;

    KeyBlocks(const Tile& tile, int64_t column)
        : begin(tile.low / kBlock * kBlock), end(round_to_blocks(most(0, tile.high(column + kBlock - 1)))) {}
};

// x in the lanes whose query sees key j, `other` in the rest.
LLMCORE_INLINE Vec keep_seeing(Vec x, const Tile& tile, int64_t j, int64_t column, Vec other) {
    return select(lane_numbers(column) >= static_cast<float>(first_column(tile, j)), x, other);
}

// scores (kKeys, kQueries) = a b where a key of the block is seen by a query of the block. a (kKeys, units), b (units,
// kQueries).
void visible_products(float* scores, const uint32_t* a, const uint32_t* b, const Tile& tile, int64_t units) {
    for (int64_t j = tile.low / kBlock * kBlock; j < tile.size; j += kBlock) {
        int64_t column = first_column(tile, j) / kBlock * kBlock;
        multiply(scores + j * kQueries + column, kQueries, a + j * units, units, b + column, kQueries, kBlock,
                 columns_of(tile) - column, units, false);
    }
}

// sums (width, kQueries) += a b over the keys that each block of queries sees. a (width, kKeys / 2), b (kKeys / 2,
// kQueries).
void add_over_keys(float* sums, const uint32_t* a, const uint32_t* b, const Tile& tile, int64_t width) {
    for (int64_t column = 0; column < columns_of(tile); column += kBlock) {
        KeyBlocks keys(tile, column);
        if (keys.begin < keys.end)
            multiply(sums + column, kQueries, a + keys.begin / 2, kKeys / 2, b + keys.begin / 2 * kQueries + column,
                     kQueries, width, kBlock, (keys.end - keys.begin) / 2, true);
    }
}

// sums (kKeys, width) += a b over the queries that see each block of keys. a (kKeys, kQueries / 2), b (kQueries / 2,
// width).
void add_over_queries(float* sums, const uint32_t* a, const uint32_t* b, const Tile& tile, int64_t width) {
    for (int64_t j = tile.low / kBlock * kBlock; j < tile.size; j += kBlock) {
        int64_t column = first_column(tile, j) / kBlock * kBlock;
        if (column < columns_of(tile))
            multiply(sums + j * width, width, a + j * (kQueries / 2) + column / 2, kQueries / 2, b + column / 2 * width,
                     width, kBlock, width, (columns_of(tile) - column) / 2, true);
    }
}

// factors[j][i] of the dropout mask for whole blocks of a tile, through rows of queries, in whose order it is drawn.
void draw_factors(float* factors, const Mask& mask, const Tile& tile, int64_t head) {
    for (int64_t i0 = 0; i0 < columns_of(tile); i0 += kLanes)
        for (int64_t j0 = 0; j0 < round_to_blocks(tile.size); j0 += kLanes) {
            Vec block[kLanes] = {};
            int64_t keys = least(kLanes, tile.size - j0);
            for (int64_t i = i0; keys > 0 && i < least(i0 + kLanes, tile.queries); ++i)
                block[i - i0] = mask.factor(mask.words(head, tile.query + i, tile.first + j0, keys));
            transpose(block);
            for (int k = 0; k < kLanes; ++k) store(factors + (j0 + k) * kQueries + i0, block[k]);
        }
}

// ----------------------------------------------------------------------------------------------------------------
// forward

struct ForwardScratch {
    uint32_t *k, *v_columns;   // packed head, by tiles: (kKeys, width / 2), (width, kKeys / 2)
    uint32_t *q, *p;           // of a block of queries: (width / 2, kQueries), probabilities (kKeys / 2, kQueries)
    float *scores, *out;       // (kKeys, kQueries), (width, kQueries)
    float *row_max, *row_sum;  // (kQueries)
    float *factors, *words;    // of the dropout mask: (kKeys, kQueries)
    float* packed_head;        // the number of the head that k and v hold, as int64_t

    ForwardScratch(Scratch scratch, const AttentionProblem& p_, int64_t* used = nullptr) {
        int64_t width = round_to_blocks(p_.HS), tile = kKeys * width / 2, tiles = tiles_of_keys(p_);
        packed_head = scratch.take(2);
        k = scratch.take_units(tiles * tile);
        v_columns = scratch.take_units(tiles * tile);
        q = scratch.take_units(width / 2 * kQueries);
        p = scratch.take_units(kKeys / 2 * kQueries);
        scores = scratch.take(kKeys * kQueries);
        out = scratch.take(width * kQueries);
        row_max = scratch.take(kQueries);
        row_sum = scratch.take(kQueries);
        factors = scratch.take(p_.dropout_p > 0 ? kKeys * kQueries : 0);
        words = scratch.take(Mask::kBufferSize);
        if (used != nullptr) *used = scratch.used;
    }
};

int64_t forward_scratch_size(const AttentionProblem& p) {
    int64_t used;
    ForwardScratch(Scratch{nullptr}, p, &used);
    return used;
}

// Turns a vector of queries' scores into probabilities relative to row_max, as units of two keys.
//
// row_max follows the true maximum only when that has grown by more than 8: e^8 more is nothing to a float sum, and
// most tiles then need no rescaling of what was added up before.
void softmax_columns(const ForwardScratch& scratch, const Tile& tile, int64_t column, int64_t width, float scale,
                     bool dropout) {
    Keys keys(tile, column);
    const float* scores = scratch.scores + column;
    Vec largest = splat(-kInfinity);
    for (int64_t j = keys.low; j < keys.full; ++j) largest = max(load(scores + j * kQueries) * scale, largest);
    for (int64_t j = keys.full; j < keys.end; ++j)
        largest = max(keep_seeing(load(scores + j * kQueries) * scale, tile, j, column, splat(-kInfinity)), largest);

    Vec row_max = load(scratch.row_max + column), sums = load(scratch.row_sum + column);
    VecInt grown = (largest > row_max + 8.0f) | ((row_max == splat(-kInfinity)) & (largest > row_max));
    Vec new_max = select(grown, largest, row_max);
    if (max_lane(select(grown, splat(1.0f), Vec{})) > 0.0f) {
        // Where nothing was added up yet there is nothing to shrink, and no -infinity to subtract.
        Vec shrink = exp_bounded(select(row_max == splat(-kInfinity), Vec{}, row_max - new_max));
        store(scratch.row_max + column, new_max);
        sums = sums * shrink;
        if (tile.first > tile.visible.begin)
            for (int64_t c = 0; c < width; ++c) {
                float* out = scratch.out + c * kQueries + column;
                store(out, load(out) * shrink);
            }
    }
    Vec shift = select(new_max == splat(-kInfinity), Vec{}, new_max);

    auto probability = [&](int64_t j) {
        if (j < keys.low || j >= keys.end) return Vec{};
        Vec p = exp_bounded(load(scores + j * kQueries) * scale - shift);
        return j < keys.full ? p : keep_seeing(p, tile, j, column, Vec{});
    };
    KeyBlocks blocks(tile, column / kBlock * kBlock);
    for (int64_t j = blocks.begin; j < blocks.end; j += 2) {
        Vec first = probability(j), second = probability(j + 1);
        sums += first;
        sums += second;
        if (dropout) {
            first *= load(scratch.factors + j * kQueries + column);
            second *= load(scratch.factors + (j + 1) * kQueries + column);
        }
        store_row_pairs(scratch.p + j / 2 * kQueries + column, round_rows(first, second));
    }
    store(scratch.row_sum + column, sums);
}

void forward_block(bf16* out, float* lse, const bf16* q, const ForwardScratch& scratch, const Visible& visible,
                   const AttentionProblem& p, int64_t head, int64_t query) {
    int64_t n = least(kQueries, p.Tq - query), width = round_to_blocks(p.HS), tile_units = kKeys * width / 2;
    Mask mask(p, scratch.words);
    pack_by_units(scratch.q, Rows{q + query * p.q_stride, p.q_stride, 0, n, p.HS}, 0, kQueries);
    std::memset(scratch.out, 0, width * kQueries * sizeof(float));
    std::memset(scratch.row_sum, 0, kQueries * sizeof(float));
    for (int64_t i = 0; i < kQueries; ++i) scratch.row_max[i] = -kInfinity;

    for (int64_t first = visible.begin / kKeys * kKeys; first < visible.end_of(query + n - 1); first += kKeys) {
        Tile tile(visible, first, query, n);
        visible_products(scratch.scores, scratch.k + first / kKeys * tile_units, scratch.q, tile, width / 2);
        if (mask.active()) draw_factors(scratch.factors, mask, tile, head);
        for (int64_t column = 0; column < columns_of(tile); column += kLanes)
            softmax_columns(scratch, tile, column, width, p.scale, mask.active());
        add_over_keys(scratch.out, scratch.v_columns + first / kKeys * tile_units, scratch.p, tile, width);
    }

    float factors[kQueries];
    for (int64_t i = 0; i < kQueries; ++i) {
        float total = scratch.row_sum[i];
        bool any = scratch.row_max[i] != -kInfinity;
        factors[i] = any ? 1.0f / total : 0.0f;
        if (lse != nullptr && i < n)
            lse[head * p.Tq + query + i] = any ? scratch.row_max[i] + __builtin_logf(total) : -kInfinity;
    }
    int64_t stride = p.NH * p.HS;
    write_transposed(out + query * stride, stride, scratch.out, kQueries, factors, n, p.HS);
}

// ----------------------------------------------------------------------------------------------------------------
// backward

struct BackwardScratch {
    uint32_t *k, *v, *k_columns;           // packed head, by tiles: (kKeys, width / 2) twice, (width, kKeys / 2)
    float *dk, *dv;                        // (keys, width), sums over all queries
    uint32_t *q, *dout;                    // of a block of queries: (width / 2, kQueries)
    uint32_t *q_pairs, *dout_pairs;        // (kQueries / 2, width)
    uint32_t *p, *dscores, *dscore_pairs;  // (kKeys, kQueries / 2) twice, (kKeys / 2, kQueries)
    float *scores, *dp, *dq;               // (kKeys, kQueries) twice, (width, kQueries)
    float *lse, *delta;                    // (kQueries)
    float *factors, *words;                // of the dropout mask: (kKeys, kQueries)

    BackwardScratch(Scratch scratch, const AttentionProblem& p_, int64_t* used = nullptr) {
        int64_t width = round_to_blocks(p_.HS), keys = tiles_of_keys(p_) * kKeys, block = kQueries * width / 2;
        k = scratch.take_units(keys * width / 2);
        v = scratch.take_units(keys * width / 2);
        k_columns = scratch.take_units(keys * width / 2);
        dk = scratch.take(keys * width);
        dv = scratch.take(keys * width);
        q = scratch.take_units(block);
        dout = scratch.take_units(block);
        q_pairs = scratch.take_units(block);
        dout_pairs = scratch.take_units(block);
        p = scratch.take_units(kKeys * kQueries / 2);
        dscores = scratch.take_units(kKeys * kQueries / 2);
        dscore_pairs = scratch.take_units(kKeys * kQueries / 2);
        scores = scratch.take(kKeys * kQueries);
        dp = scratch.take(kKeys * kQueries);
        dq = scratch.take(width * kQueries);
        lse = scratch.take(kQueries);
        delta = scratch.take(kQueries);
        factors = scratch.take(p_.dropout_p > 0 ? kKeys * kQueries : 0);
        words = scratch.take(Mask::kBufferSize);
        if (used != nullptr) *used = scratch.used;
    }
};

int64_t backward_scratch_size(const AttentionProblem& p) {
    int64_t used;
    BackwardScratch(Scratch{nullptr}, p, &used);
    return used;
}

// From the scores and dp = v . dout of a vector of queries: P * mask factor, and the gradient of the scores without
// their scale, P * (dp * mask factor - delta).
void softmax_backward_columns(const BackwardScratch& scratch, const Tile& tile, int64_t column, float scale,
                              bool dropout) {
    Keys keys(tile, column);
    KeyBlocks blocks(tile, column / kBlock * kBlock);
    Vec lse = load(scratch.lse + column), delta = load(scratch.delta + column);
    for (int64_t j = blocks.begin; j < blocks.end; j += 2) {
        Vec p[2] = {}, dscore[2] = {};
        for (int i = 0; i < 2; ++i) {
            if (j + i < keys.low || j + i >= keys.end) continue;
            int64_t at = (j + i) * kQueries + column;
            Vec probability = exp_bounded(load(scratch.scores + at) * scale - lse);
            Vec factor = dropout ? load(scratch.factors + at) : splat(1.0f);
            p[i] = probability * factor;
            dscore[i] = probability * (load(scratch.dp + at) * factor - delta);
            if (j + i < keys.full) continue;
            p[i] = keep_seeing(p[i], tile, j + i, column, Vec{});
            dscore[i] = keep_seeing(dscore[i], tile, j + i, column, Vec{});
        }
        int64_t row = (j * kQueries + column) / 2;
        TwoRows dscores = round_rows(dscore[0], dscore[1]);
        store_two_rows(scratch.p + row, kQueries / 2, round_rows(p[0], p[1]));
        store_two_rows(scratch.dscores + row, kQueries / 2, dscores);
        store_row_pairs(scratch.dscore_pairs + j / 2 * kQueries + column, dscores);
    }
}

// One block of queries of one head: writes dq, adds to the dk and dv of the scratch memory.
void backward_block(bf16* dq, const bf16* dout, const bf16* q, const bf16* out, const float* lse,
                    const BackwardScratch& scratch, const Visible& visible, const AttentionProblem& p, int64_t head,
                    int64_t query) {
    int64_t n = least(kQueries, p.Tq - query), width = round_to_blocks(p.HS), tile_units = kKeys * width / 2;
    int64_t out_stride = p.NH * p.HS;
    Mask mask(p, scratch.words);
    Rows q_rows{q + query * p.q_stride, p.q_stride, 0, n, p.HS};
    Rows dout_rows{dout + query * out_stride, out_stride, 0, n, p.HS};
    pack_by_units(scratch.q, q_rows, 0, kQueries);
    pack_by_units(scratch.dout, dout_rows, 0, kQueries);
    pack_row_pairs(scratch.q_pairs, q_rows, 0, kQueries);
    pack_row_pairs(scratch.dout_pairs, dout_rows, 0, kQueries);
    std::memset(scratch.dq, 0, width * kQueries * sizeof(float));
    for (int64_t i = 0; i < kQueries; ++i) {
        Vec sums{};  // delta is the sum over j of P * dP, which equals out . dout
        const bf16 *out_i = out + (query + i) * out_stride, *dout_i = dout + (query + i) * out_stride;
        if (i < n) for_each_vector(p.HS, [&](auto at) { sums += at.load(out_i) * at.load(dout_i); });
        scratch.delta[i] = sum(sums);
        scratch.lse[i] = i < n ? lse[query + i] : 0.0f;
    }

    for (int64_t first = visible.begin / kKeys * kKeys; first < visible.end_of(query + n - 1); first += kKeys) {
        Tile tile(visible, first, query, n);
        int64_t units = first / kKeys * tile_units;
        visible_products(scratch.scores, scratch.k + units, scratch.q, tile, width / 2);
        visible_products(scratch.dp, scratch.v + units, scratch.dout, tile, width / 2);
        if (mask.active()) draw_factors(scratch.factors, mask, tile, head);
        for (int64_t column = 0; column < columns_of(tile); column += kLanes)
            softmax_backward_columns(scratch, tile, column, p.scale, mask.active());
        add_over_queries(scratch.dv + first * width, scratch.p, scratch.dout_pairs, tile, width);
        add_over_queries(scratch.dk + first * width, scratch.dscores, scratch.q_pairs, tile, width);
        add_over_keys(scratch.dq, scratch.k_columns + units, scratch.dscore_pairs, tile, width);
    }
    float factors[kQueries];
    for (float& factor : factors) factor = p.scale;
    write_transposed(dq + query * p.q_stride, p.q_stride, scratch.dq, kQueries, factors, n, p.HS);
}

// x[j] = sums[j] * factor for the rows of a head.
void write_rows(bf16* x, int64_t stride, const float* sums, int64_t rows, int64_t C, float factor) {
    for (int64_t j = 0; j < rows; ++j, x += stride, sums += round_to_blocks(C))
        for_each_vector(C, [&](auto at) { at.store(x, load(sums + at.column) * factor); });
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
        begin_products();
        ForwardScratch scratch(Scratch{workspace + worker * stride}, p);
        // A causal head's late blocks are the long ones: 0, last, 1, last - 1, ... gives threads equal shares.
        int64_t head = task / blocks, turn = task % blocks, block = turn % 2 ? blocks - 1 - turn / 2 : turn / 2;
        int64_t b = head / p.NH, h = head % p.NH, kv = h / group, kv_head = b * p.NKV + kv, packed;
        Visible visible = visible_keys(p, b);
        std::memcpy(&packed, scratch.packed_head, sizeof packed);
        if (packed != kv_head) {
            Rows k_rows{k + b * p.Tk * p.k_stride + kv * p.HS, p.k_stride, visible.begin, visible.end, p.HS};
            Rows v_rows{v + b * p.Tk * p.v_stride + kv * p.HS, p.v_stride, visible.begin, visible.end, p.HS};
            int64_t tile_units = kKeys * round_to_blocks(p.HS) / 2;
            for (int64_t tile = visible.begin / kKeys; tile * kKeys < visible.end; ++tile) {
                pack_by_rows(scratch.k + tile * tile_units, k_rows, tile * kKeys, kKeys);
                pack_columns(scratch.v_columns + tile * tile_units, v_rows, tile * kKeys, kKeys);
            }
            std::memcpy(scratch.packed_head, &kv_head, sizeof kv_head);
        }
        forward_block(out + b * p.Tq * p.NH * p.HS + h * p.HS, lse, q + b * p.Tq * p.q_stride + h * p.HS, scratch,
                      visible, p, head, block * kQueries);
        end_products();
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
    int64_t stride = backward_scratch_size(p), group = p.NH / p.NKV, width = round_to_blocks(p.HS);
    parallel_tasks(p.B * p.NKV, [=](int64_t task, int worker) {
        begin_products();
        BackwardScratch scratch(Scratch{workspace + worker * stride}, p);
        int64_t b = task / p.NKV, kv = task % p.NKV;
        int64_t k_at = b * p.Tk * p.k_stride + kv * p.HS, v_at = b * p.Tk * p.v_stride + kv * p.HS;
        Visible visible = visible_keys(p, b);
        Rows k_rows{k + k_at, p.k_stride, visible.begin, visible.end, p.HS};
        Rows v_rows{v + v_at, p.v_stride, visible.begin, visible.end, p.HS};
        for (int64_t tile = visible.begin / kKeys; tile * kKeys < visible.end; ++tile) {
            int64_t units = tile * kKeys * width / 2;
            pack_by_rows(scratch.k + units, k_rows, tile * kKeys, kKeys);
            pack_by_rows(scratch.v + units, v_rows, tile * kKeys, kKeys);
            pack_columns(scratch.k_columns + units, k_rows, tile * kKeys, kKeys);
        }
        std::memset(scratch.dk, 0, tiles_of_keys(p) * kKeys * width * sizeof(float));
        std::memset(scratch.dv, 0, tiles_of_keys(p) * kKeys * width * sizeof(float));
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
            int64_t head = b * p.NH + h, q_at = b * p.Tq * p.q_stride + h * p.HS;
            int64_t out_at = b * p.Tq * p.NH * p.HS + h * p.HS;
            for (int64_t query = 0; query < p.Tq; query += kQueries)
                backward_block(dq + q_at, dout + out_at, q + q_at, out + out_at, lse + head * p.Tq, scratch, visible, p,
                               head, query);
        }
        write_rows(dk + k_at, p.k_stride, scratch.dk, p.Tk, p.HS, p.scale);
        write_rows(dv + v_at, p.v_stride, scratch.dv, p.Tk, p.HS, 1.0f);
        end_products();
    });
}

template <class Backend>
size_t attention_backward_workspace(Backend, const AttentionProblem& problem) {
    return static_cast<size_t>(num_threads() * backward_scratch_size(problem));
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(attention_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(attention_forward_workspace, Cpu)
LLMCORE_INSTANTIATE(attention_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(attention_backward_workspace, Cpu)

}  // namespace llmcore
