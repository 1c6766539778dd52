// What all kernels of attention share: which keys a query sees, and the dropout mask.
//
// A mask is drawn as words of 32 bits into shared memory, each by one thread, whatever fragments the scores are held
// in: eight blocks of Philox make the bits of 32 neighbouring keys, and none of their words is thrown away.
#pragma once

#include "core/backend.h"
#include "core/philox.h"
#include "cuda/arch/target.cuh"
#include "kernels/attention.h"

namespace llmcore {

LLMCORE_DEVICE int least(int a, int b) {
    return a < b ? a : b;
}
LLMCORE_DEVICE int most(int a, int b) {
    return a > b ? a : b;
}

// The keys that some query of a batch entry sees lie in [begin, end); query i sees those below i + diagonal.
struct Visible {
    int begin, end, diagonal;

    LLMCORE_DEVICE int end_of(int query) const { return least(end, query + diagonal); }
    LLMCORE_DEVICE bool sees(int query, int key) const { return key >= begin && key < end_of(query); }
};

// Whatever `starts` and `lengths` hold, the keys are between 0 and Tk: ops have checked them, but only on the host.
LLMCORE_DEVICE Visible visible_keys(const AttentionProblem& p, int b) {
    const int Tq = int(p.Tq), Tk = int(p.Tk);
    const int start = p.starts != nullptr ? p.starts[b] : 0, length = p.lengths != nullptr ? p.lengths[b] : Tk;
    Visible visible{most(0, least(start, Tk)), most(0, least(length, Tk)), Tk + 1};
    if (p.causal == Causal::kLastKey) visible.diagonal = Tk - Tq + 1;
    if (p.causal == Causal::kLastValidKey) visible.diagonal = visible.end - Tq + 1;
    return visible;
}

// ---------------------------------------------------------------------------------------------------------------------
// dropout

struct DropoutMask {
    uint64_t seed, offset;
    const uint64_t* shift;  // of the offset: core/backend.h
    uint32_t threshold;     // an element is kept if its word is at least this
    float keep_scale;       // and multiplied by this

    // With the offset that counts now; for kernels.
    LLMCORE_DEVICE DropoutMask shifted() const { return {seed, offset + *shift, shift, threshold, keep_scale}; }
};

inline DropoutMask dropout_mask(const Cuda& cuda, const AttentionProblem& p) {
    return {p.seed, p.offset, cuda.random_shift, dropout_threshold(p.dropout_p), 1.0f / (1.0f - p.dropout_p)};
}

// Bit n: whether element `first` + n is kept, n < kBits. Elements and Philox's blocks of four need not begin together:
// then there is one block more.
template <int kBits>
LLMCORE_DEVICE uint32_t kept_bits(const DropoutMask& mask, uint64_t first) {
    const int skip = int(first % 4), blocks = kBits / 4 + (skip > 0);
    uint64_t bits = 0;
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
        const Philox4 words = philox(mask.seed, mask.offset, first / 4 + uint64_t(block));
#pragma unroll
        for (int i = 0; i < 4; ++i) bits |= uint64_t(words.word[i] >= mask.threshold) << (block * 4 + i);
    }
    return uint32_t(bits >> skip);
}

// The mask of kQueries x kKeys scores: for each query one word for 32 keys (the last may be unfinished).
template <int kQueries, int kKeys>
struct MaskTile {
    static constexpr int kBits = kKeys < 32 ? kKeys : 32, kWordsPerQuery = kKeys / kBits;
    static constexpr int kWords = kQueries * kWordsPerQuery, kBytes = kWords * 4;
    static_assert(kKeys % kBits == 0 && kBits % 4 == 0, "words are whole");

    // `first` is the element of the first query and key, Tk the elements of a query. Ready after a barrier.
    template <int kThreads>
    LLMCORE_DEVICE static void draw(uint32_t* words, const DropoutMask& mask, uint64_t first, int64_t Tk) {
#pragma unroll 1
        for (int n = int(threadIdx.x); n < kWords; n += kThreads)
            words[n] = kept_bits<kBits>(
                mask, first + uint64_t(n / kWordsPerQuery) * uint64_t(Tk) + uint64_t(n % kWordsPerQuery * kBits));
    }

    // Zeros what is not kept in a warp's operands (cuda/attention_tile.cuh), whose rows are queries from `row` on.
    template <int kM>
    LLMCORE_DEVICE static void apply(uint32_t (&rounded)[kM][kKeys / 16][4], const uint32_t* words, int row) {
        const int lane = int(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < kM; ++i)
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
                for (int j = 0; j < kKeys / 8; ++j) {
                    const int at = (row + 16 * i + 8 * r + lane / 4) * kWordsPerQuery + 8 * j / kBits;
                    const uint32_t two = words[at] >> (8 * j % kBits + lane % 4 * 2);
                    rounded[i][j / 2][j % 2 * 2 + r] &= (two & 1 ? 0xffffu : 0u) | (two & 2 ? 0xffff0000u : 0u);
                }
    }

    LLMCORE_DEVICE static bool keeps(const uint32_t* words, int query, int key) {
        return words[query * kWordsPerQuery + key / kBits] >> (key % kBits) & 1;
    }
};

}  // namespace llmcore
