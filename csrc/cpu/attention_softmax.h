// What attention does to one query's scores against one tile of keys: which of them are visible, the online softmax,
// the dropout mask, and the way back.
#pragma once

#include "cpu/attention_tiles.h"
#include "cpu/philox_words.h"
#include "kernels/attention.h"

namespace llmcore {
namespace {

// A tile of scores is 16 KiB: with its operands of head size 64 it lives in a second-level cache of 256 KiB and mostly
// in a first-level cache of 48 KiB.
constexpr int64_t kQueries = 64;
constexpr int64_t kKeys = 64;
constexpr float kInfinity = __builtin_inff();

LLMCORE_INLINE int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
LLMCORE_INLINE int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// ----------------------------------------------------------------------------------------------------------------
// what a query sees

// Keys that some query of batch entry b sees lie in [begin, end); query i sees those below i + diagonal.
struct Visible {
    int64_t begin, end, diagonal;

    int64_t end_of(int64_t query) const { return least(end, query + diagonal); }
};

Visible visible_keys(const AttentionProblem& p, int64_t b) {
    int64_t length = p.lengths ? p.lengths[b] : p.Tk;
    int64_t diagonal = p.causal == Causal::kNone      ? p.Tk + 1
                       : p.causal == Causal::kLastKey ? p.Tk - p.Tq + 1
                                                      : length - p.Tq + 1;
    return {p.starts ? p.starts[b] : 0, length, diagonal};
}

// A tile of keys [first, first + size) as the queries [query, query + queries) see it.
struct Tile {
    int64_t first, size, query, queries, low;
    Visible visible;

    Tile(const Visible& seen, int64_t first_key, int64_t first_query, int64_t n)
        : first(first_key),
          size(least(kKeys, seen.end - first_key)),
          query(first_query),
          queries(n),
          low(most(0, seen.begin - first_key)),
          visible(seen) {}

    // Query i of the block sees the columns [low, high(i)).
    int64_t high(int64_t i) const { return least(size, visible.end_of(query + i) - first); }

    // The first query that sees column j; before it a column of the tile is zero.
    int64_t first_seeing(int64_t j) const { return most(0, least(queries, first + j + 1 - visible.diagonal - query)); }

    int64_t vectors() const { return round_to_vectors(size) / kLanes; }
};

// ----------------------------------------------------------------------------------------------------------------
// dropout

struct Mask {
    const AttentionProblem& problem;
    uint32_t threshold;
    float keep_scale;
    uint32_t* buffer;

    Mask(const AttentionProblem& p, float* memory)
        : problem(p),
          threshold(dropout_threshold(p.dropout_p)),
          keep_scale(1.0f / (1.0f - p.dropout_p)),
          buffer(reinterpret_cast<uint32_t*>(memory)) {}

    static constexpr int64_t kBufferSize = kKeys + kWordsPadding + kLanes;

    bool active() const { return problem.dropout_p > 0; }

    // Words of columns [first, first + kKeys) of a query; valid until the next call. head = b*NH + h.
    const uint32_t* words(int64_t head, int64_t query, int64_t first, int64_t size) const {
        uint64_t row = static_cast<uint64_t>(head) * problem.Tq + query;
        return philox_words(buffer, problem.seed, problem.offset, row * problem.Tk + first, size);
    }

    // keep_scale where the element is kept, else 0.
    Vec factor(const uint32_t* word) const {
        VecUint bits;
        std::memcpy(&bits, word, sizeof bits);
        return select(bits >= threshold, splat(keep_scale), Vec{});
    }
};

LLMCORE_INLINE Vec lane_numbers(int64_t first) {
    float numbers[kLanes];
    for (int i = 0; i < kLanes; ++i) numbers[i] = static_cast<float>(first + i);
    return load(numbers);
}

// v where the column is in [low, high), else `other`. Tiles have 64 columns: exact in float.
LLMCORE_INLINE Vec keep_columns(Vec v, int64_t column, int64_t low, int64_t high, Vec other) {
    if (column >= low && column + kLanes <= high) return v;
    Vec number = lane_numbers(column);
    return select((number >= static_cast<float>(low)) & (number < static_cast<float>(high)), v, other);
}

// ----------------------------------------------------------------------------------------------------------------
// softmax

// e^x for x up to 88, relative error below 2 ulp; 0 below -87.3, NaN stays NaN. Two thirds of the instructions of
// exp(), whose upper end and denormal care are not needed here.
LLMCORE_INLINE Vec exp_bounded(Vec x) {
    Vec clamped = max(splat(-87.3f), x);                // in this order NaN is kept
    Vec shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer is in the low bits
    Vec n = shifted - 12582912.0f;
    Vec r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Vec p = splat(1.3930436e-3f);
    p = p * r + 8.3634920e-3f;
    p = p * r + 4.1666666e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000000e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    Vec scale = bits_to_float((float_to_bits(shifted) << 23) + (127u << 23));
    return select(x < splat(-87.3f), Vec{}, p * scale);
}

// Turns the scores of one query into unnormalised probabilities relative to row_max, with the mask applied.
//
// row_max follows the true maximum only when that has grown by more than 8: e^8 more is nothing to a float sum, and
// most tiles then need no rescaling of what was added up before.
LLMCORE_INLINE void softmax_row(float* s, float& row_max, float* row_sum, float* out, int64_t row, const Tile& tile,
                                int64_t i, int64_t head, const Mask& mask) {
    int64_t low = tile.low, high = tile.high(i), columns = tile.vectors() * kLanes;
    int64_t begin = least(low / kLanes * kLanes, columns), end = most(begin, round_to_vectors(high));
    if (high <= low) begin = end = columns;
    for (int64_t j = 0; j < begin; j += kLanes) store(s + j, Vec{});
    for (int64_t j = end; j < columns; j += kLanes) store(s + j, Vec{});
    if (begin == end) return;

    Vec largest = splat(-kInfinity);
    for (int64_t j = begin; j < end; j += kLanes) {
        Vec score = keep_columns(load(s + j), j, low, high, splat(-kInfinity));
        store(s + j, score);
        largest = max(score, largest);
    }
    largest = max_of_lanes(largest);
    if (row_max == -kInfinity) {
        row_max = largest[0];  // nothing was added up yet
    } else if (!(largest[0] <= row_max + 8.0f)) {
        Vec shrink = exp_bounded(splat(row_max) - largest);
        row_max = largest[0];
        store(row_sum, load(row_sum) * shrink);
        for (int64_t c = 0; c < row; c += kLanes) store(out + c, load(out + c) * shrink);
    }
    const uint32_t* words = mask.active() ? mask.words(head, tile.query + i, tile.first, tile.size) : nullptr;
    Vec sums = load(row_sum);
    for (int64_t j = begin; j < end; j += kLanes) {
        Vec p = exp_bounded(load(s + j) - row_max);
        sums += p;
        store(s + j, words ? p * mask.factor(words + j) : p);
    }
    store(row_sum, sums);
}

// From the scores s and dp = dout . v of one query: s = P * mask factor, dp = P * (dp * mask factor - delta).
LLMCORE_INLINE void softmax_backward_row(float* s, float* dp, float lse, float delta, const Tile& tile, int64_t i,
                                         int64_t head, const Mask& mask) {
    int64_t low = tile.low, high = tile.high(i), columns = tile.vectors() * kLanes;
    int64_t begin = least(low / kLanes * kLanes, columns), end = most(begin, round_to_vectors(high));
    if (high <= low) begin = end = columns;
    for (int64_t j = 0; j < begin; j += kLanes) store(s + j, Vec{}), store(dp + j, Vec{});
    for (int64_t j = end; j < columns; j += kLanes) store(s + j, Vec{}), store(dp + j, Vec{});
    if (begin == end) return;
    const uint32_t* words = mask.active() ? mask.words(head, tile.query + i, tile.first, tile.size) : nullptr;
    for (int64_t j = begin; j < end; j += kLanes) {
        Vec p = exp_bounded(load(s + j) - lse), dp_j = load(dp + j);
        Vec masked = p;
        if (words != nullptr) {
            Vec factor = mask.factor(words + j);
            masked = p * factor, dp_j = dp_j * factor;
        }
        store(s + j, keep_columns(masked, j, low, high, Vec{}));
        store(dp + j, keep_columns(p * (dp_j - delta), j, low, high, Vec{}));
    }
}

}  // namespace
}  // namespace llmcore
