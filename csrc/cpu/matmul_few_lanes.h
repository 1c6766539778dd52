// Matrix products in which one operand has a few lanes only (rows of a: generation, or columns of b: a classifier's
// head). Each element of the other operand then meets few others, so the time is that of reading it: it is read once,
// in the order of memory, and never packed. The lanes of the large operand are cut into tiles, one task each.
//
// The sums are those of the product by tiles (cpu/matmul.cpp), bit for bit: chains of multiply-adds in the order of the
// steps that start anew at every block of K. A row of y is the same alone, in a batch of 8 and in one of 1,000.
#pragma once

#include <cstdint>

#include "core/inline.h"
#include "cpu/matmul_blocks.h"
#include "cpu/matmul_epilogue.h"
#include "cpu/matmul_source.h"
#include "cpu/row_blocks.h"
#include "cpu/simd.h"

namespace llmcore {
namespace {

// ----------------------------------------------------------------------------------------------------------------
// units in float: one step each (pairs of bf16 are in cpu/matmul_bf16.h)

struct FloatSteps {
    static constexpr int kSteps = 1;

    template <class T>
    static LLMCORE_INLINE float unit(const T* p, int64_t, int64_t) {
        return to_float(*p);
    }
    // One unit of kLanes lanes that are side by side; `lanes` are there.
    template <class T>
    static LLMCORE_INLINE Vec load_lanes(const T* p, int64_t, int64_t lanes, int64_t) {
        return lanes >= kLanes ? load(p) : load_partial(p, lanes);
    }
    static LLMCORE_INLINE Vec multiply_add(Vec sums, float few, Vec many) { return sums + splat(few) * many; }
    // The same with 32 bits of each of kLanes lanes: one float or two bf16, the next step in the upper half.
    // few[step * count]
    template <int count, class T>
    static LLMCORE_INLINE Vec multiply_add_words(Vec sums, const float* few, Vec words) {
        if constexpr (sizeof(T) == 4) return multiply_add(sums, few[0], words);
        sums = multiply_add(sums, few[0], bits_to_float(float_to_bits(words) << 16));
        return multiply_add(sums, few[count], bits_to_float(float_to_bits(words) & 0xffff0000u));
    }
};

// ----------------------------------------------------------------------------------------------------------------
// sums[few lane * stride + lane]; `few` is packed by units: few[unit * count + few lane]

// Four words of 32 bits of each of kLanes lanes, turned: words[i] holds word i of all lanes. By 16 bytes, which stay in
// their quarter of a vector from the load on: half the shuffles of a transposition of whole vectors, and few registers.
LLMCORE_INLINE void load_four_words(Vec (&words)[4], const char* source, int64_t lane_bytes) {
    Vec rows[4];  // row j: lanes j, j + 4, j + 8 ...
    for (int j = 0; j < 4; ++j) {
        const char* p = source + j * lane_bytes;
#if defined(__AVX512F__)
        auto part = [=](int i) { return _mm_loadu_ps(reinterpret_cast<const float*>(p + i * 4 * lane_bytes)); };
        __m512 row = _mm512_castps128_ps512(part(0));
        row = _mm512_maskz_insertf32x4(0xffff, row, part(1), 1);
        row = _mm512_maskz_insertf32x4(0xffff, row, part(2), 2);
        row = _mm512_maskz_insertf32x4(0xffff, row, part(3), 3);
        rows[j] = reinterpret_cast<Vec>(row);
#elif defined(__AVX2__)
        auto part = [=](int i) { return _mm_loadu_ps(reinterpret_cast<const float*>(p + i * 4 * lane_bytes)); };
        rows[j] = reinterpret_cast<Vec>(_mm256_insertf128_ps(_mm256_castps128_ps256(part(0)), part(1), 1));
#else
        std::memcpy(&rows[j], p, sizeof rows[j]);
#endif
    }
    constexpr auto lanes = std::make_index_sequence<kLanes>();
    Vec low01 = zip_low(rows[0], rows[1], lanes), high01 = zip_high(rows[0], rows[1], lanes);
    Vec low23 = zip_low(rows[2], rows[3], lanes), high23 = zip_high(rows[2], rows[3], lanes);
    words[0] = pair_low(low01, low23, lanes), words[1] = pair_high(low01, low23, lanes);
    words[2] = pair_low(high01, high23, lanes), words[3] = pair_high(high01, high23, lanes);
}

// The lines that come next are asked for so many lines ahead: nobody else sees them coming, a group of lanes being
// short.
constexpr int64_t kLinesAhead = 6;

// The steps of a lane side by side: kLanes lanes change places with their steps in registers. Two groups of lanes in
// turn, because a chain of multiply-adds waits for itself.
template <class Units, int count, class T>
void sum_adjacent_steps(float* sums, int64_t stride, const float* few, const PanelSource<T>& many, int64_t lane,
                        int64_t lanes, int64_t K, int64_t block, bool far) {
    constexpr int groups = count <= 4 ? 2 : 1;
    constexpr int64_t word_steps = 4 / sizeof(T), word_units = word_steps / Units::kSteps, line = 16 * word_steps;
    constexpr int64_t width = groups * kLanes;
    for (int64_t first = 0; first < lanes; first += width) {
        Vec chains[groups][count] = {};
        for (int64_t k = 0; k < K; k += line) {  // a block is whole lines
#pragma GCC unroll 2
            for (int group = 0; group < groups; ++group) {
                int64_t top = lane + first + group * kLanes, there = many.lanes - top, steps = K - k;
                const T* source = many.at(top, k);
                int64_t row = many.stride;
                T rest[kLanes * line];  // what is there, where that is not all
                if (there < kLanes || steps < line) {
                    for (int64_t i = 0; i < kLanes; ++i)
                        for (int64_t step = 0; step < line; ++step)
                            rest[i * line + step] = i < there && step < steps ? source[i * row + step] : T{};
                    source = rest;
                    row = line;
                } else {
                    const T* next = source + kLinesAhead * line;
                    if (steps <= kLinesAhead * line) next += width * row - K;  // the next lanes begin
                    for (int i = 0; i < kLanes; ++i) __builtin_prefetch(next + i * row);
                    if (far)
                        for (int i = 0; i < kLanes; ++i) __builtin_prefetch(source + (2 * width + i) * row, 0, 2);
                }
                const float* few_words = few + k / Units::kSteps * count;
                for (int word = 0; word < 16; word += 4, few_words += 4 * word_units * count) {
                    Vec words[4];
                    load_four_words(words, reinterpret_cast<const char*>(source + word * word_steps),
                                    row * static_cast<int64_t>(sizeof(T)));
#pragma GCC unroll 4
                    for (int i = 0; i < 4; ++i)
#pragma GCC unroll 8
                        for (int of = 0; of < count; ++of)
                            chains[group][of] = Units::template multiply_add_words<count, T>(
                                chains[group][of], few_words + i * word_units * count + of, words[i]);
                }
            }
            if ((k + line) % block == 0 || k + line >= K) {
                bool add = k + line > block;
#pragma GCC unroll 2
                for (int group = 0; group < groups; ++group)
#pragma GCC unroll 8
                    for (int of = 0; of < count; ++of) {
                        float* out = sums + of * stride + first + group * kLanes;
                        store(out, add ? load(out) + chains[group][of] : chains[group][of]);
                        chains[group][of] = Vec{};
                    }
            }
        }
    }
}

// The lanes of a step side by side: a few steps at a time, each read on through all lanes of the tile; the chains wait
// in memory meanwhile, in the first-level cache.
constexpr int kUnitsAtOnce = 8;

// These steps of `vectors` x kLanes lanes; of the lanes `there`, of the units `units` and of the steps `steps` if they
// are not all (`whole`).
template <class Units, int count, int vectors, bool whole, class T>
LLMCORE_INLINE void add_units(float* chains, int64_t stride, const float* few, const T* source, int64_t source_stride,
                              int64_t there, int64_t units, int64_t steps, bool add) {
    Vec chain[count][vectors] = {};
    if (add)
#pragma GCC unroll 8
        for (int of = 0; of < count; ++of)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) chain[of][v] = load(chains + of * stride + v * kLanes);
    if (whole) there = vectors * kLanes, units = kUnitsAtOnce, steps = kUnitsAtOnce * Units::kSteps;
#pragma GCC unroll 8
    for (int i = 0; i < kUnitsAtOnce; ++i) {
        if (i >= units) break;
        Vec many[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v)
            many[v] = Units::load_lanes(source + i * Units::kSteps * source_stride + v * kLanes, source_stride,
                                        there - v * kLanes, steps - i * Units::kSteps);
#pragma GCC unroll 8
        for (int of = 0; of < count; ++of)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v)
                chain[of][v] = Units::multiply_add(chain[of][v], few[i * count + of], many[v]);
    }
#pragma GCC unroll 8
    for (int of = 0; of < count; ++of)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) store(chains + of * stride + v * kLanes, chain[of][v]);
}

// One block of K: chains are what is summed of it so far, sums what all blocks give.
template <class Units, int count, class T>
void add_adjacent_lanes(float* sums, float* chains, int64_t stride, const float* few, const PanelSource<T>& many,
                        int64_t lane, int64_t lanes, int64_t k, int64_t K, bool add) {
    int64_t units = divide_up(K, Units::kSteps), there = smaller(lanes, many.lanes - lane);
    for (int64_t unit = 0; unit < units; unit += kUnitsAtOnce) {
        const T* source = many.at(lane, k + unit * Units::kSteps);
        const float* few_units = few + unit * count;
        int64_t steps = K - unit * Units::kSteps, first = 0;
        if (steps >= kUnitsAtOnce * Units::kSteps)
            for (; first + 2 * kLanes <= there; first += 2 * kLanes)
                add_units<Units, count, 2, true>(chains + first, stride, few_units, source + first, many.stride, 0, 0,
                                                 0, unit > 0);
        for (; first < there; first += kLanes)
            add_units<Units, count, 1, false>(chains + first, stride, few_units, source + first, many.stride,
                                              there - first, units - unit, steps, unit > 0);
    }
    for (int of = 0; of < count; ++of)
        for (int64_t first = 0; first < there; first += kLanes) {
            float *total = sums + of * stride + first, *chain = chains + of * stride + first;
            store(total, add ? load(total) + load(chain) : load(chain));
        }
}

// The sums by vectors of the level: what matmul_few_lanes below needs to know.
template <class Units>
struct FewLanesByVectors {
    static constexpr int kMost = 8;                            // lanes: their sums stay in registers
    static constexpr int64_t kWidth = 2 * kLanes, kLine = 32;  // steps: bf16

    // Compiled for 1, 2, 4 and 8 lanes; those that are missing are zero.
    static int64_t padded(int64_t count) { return count <= 2 ? count : count <= 4 ? 4 : kMost; }
    static int64_t packed_floats(int64_t count, int64_t K) {
        return padded(count) * (round_up(K, kLine) / Units::kSteps);
    }

    // packed[unit * padded + lane], with zeros to whole lines of the other operand.
    template <class T>
    static void pack(float* packed, const PanelSource<T>& few, int64_t K, bool) {
        int64_t count = padded(few.lanes), stride = few.adjacent_lanes ? few.stride : 1;
        for (int64_t k = 0; k < round_up(K, kLine); k += Units::kSteps, packed += count)
            for (int64_t lane = 0; lane < count; ++lane)
                packed[lane] = lane < few.lanes && k < K ? Units::unit(few.at(lane, k), stride, K - k) : 0.0f;
    }

    template <int count = kMost, class T>
    static void multiply(float* sums, float* chains, int64_t stride, const float* packed, int64_t few_lanes,
                         const PanelSource<T>& many, int64_t lane, int64_t lanes, int64_t K, int64_t block, bool far) {
        if constexpr (count > 1)
            if (few_lanes <= count / 2)
                return multiply<count / 2>(sums, chains, stride, packed, few_lanes, many, lane, lanes, K, block, far);
        if (!many.adjacent_lanes)
            return sum_adjacent_steps<Units, count>(sums, stride, packed, many, lane, lanes, K, block, far);
        for (int64_t k = 0; k < K; k += block)
            add_adjacent_lanes<Units, count>(sums, chains, stride, packed + k / Units::kSteps * count, many, lane,
                                             lanes, k, smaller(block, K - k), k > 0);
    }
};

// ----------------------------------------------------------------------------------------------------------------
// the product

// How such a product is cut, and its workspace: the few lanes packed, for every matrix of the batch; then every
// worker's sums of a tile, chains that are not yet whole, and a tile of y's shape.
struct FewLanes {
    bool rows;  // the few lanes are rows of a; else columns of b
    int64_t count, lanes, tile;
    int64_t packed_floats, tile_floats;
};

template <class By>
bool has_few_lanes(const MatmulProblem& p, bool with_dbias) {
    return p.K > 0 && (p.M <= By::kMost || (p.N <= By::kMost && !with_dbias));
}

template <class By>
FewLanes cut_few_lanes(const MatmulProblem& p) {
    FewLanes cut;
    cut.rows = p.M <= By::kMost;
    cut.count = cut.rows ? p.M : p.N;
    cut.lanes = cut.rows ? p.N : p.M;
    // The chains of a tile take half a first-level cache at most.
    int64_t widest = cache_sizes().first / 2 / static_cast<int64_t>(sizeof(float)) / By::padded(cut.count);
    int64_t tiles = divide_up(cut.lanes, larger(widest / By::kWidth, 1) * By::kWidth);
    int64_t threads = p.batch * p.M * p.N * p.K < kMinParallelWork ? 1 : num_threads();
    if (p.batch % threads != 0) tiles = round_up(tiles, threads);
    cut.tile = round_up(divide_up(cut.lanes, tiles), By::kWidth);
    cut.packed_floats = round_up(By::packed_floats(cut.count, p.K), 16);
    cut.tile_floats = round_up(cut.tile * By::padded(cut.count), 16);
    return cut;
}

template <class Kernel, class By>
int64_t few_lanes_workspace(const MatmulProblem& p, bool with_dbias) {
    FewLanes cut = cut_few_lanes<By>(p);
    return p.batch * cut.packed_floats + num_threads() * 3 * cut.tile_floats +
           (with_dbias ? divide_up(p.M, Kernel::kStrip) * p.N : 0);
}

template <class Kernel, class By, class Out, class A, class B>
void matmul_few_lanes(Out* y, const A* a, const B* b, const MatmulProblem& p, const MatmulEpilogue<Out>& epilogue,
                      int64_t block, float* workspace) {
    FewLanes cut = cut_few_lanes<By>(p);
    float* own = workspace + p.batch * cut.packed_floats;
    float* partial = own + num_threads() * 3 * cut.tile_floats;
    auto a_of = [&](int64_t matrix) { return PanelSource<A>{a + matrix * p.a_step, p.a_row(), p.M, p.transpose_a}; };
    auto b_of = [&](int64_t matrix) {
        return PanelSource<B>{b + matrix * p.b_step, p.transpose_b ? p.K : p.N, p.N, !p.transpose_b};
    };
    for (int64_t matrix = 0; matrix < p.batch; ++matrix) {
        float* packed = workspace + matrix * cut.packed_floats;
        if (cut.rows)
            By::pack(packed, a_of(matrix), p.K, !p.transpose_b);
        else
            By::pack(packed, b_of(matrix), p.K, p.transpose_a);
    }
    // Beyond the caches the processor's own prefetchers come too late.
    bool far = cut.lanes * p.K * static_cast<int64_t>(sizeof(A)) > 8 * cache_sizes().second;
    int64_t tiles = divide_up(cut.lanes, cut.tile);
    parallel_tasks(p.batch * tiles, [&](int64_t task, int worker) {
        int64_t matrix = task / tiles, lane = task % tiles * cut.tile, lanes = smaller(cut.tile, cut.lanes - lane);
        const float* packed = workspace + matrix * cut.packed_floats;
        float *sums = own + worker * 3 * cut.tile_floats, *chains = sums + cut.tile_floats;
        Product<Out, A, B> product{y, a_of(matrix), b_of(matrix), p, epilogue, matrix * p.M * p.y_row(), partial};
        if (cut.rows) {
            By::multiply(sums, chains, cut.tile, packed, cut.count, product.b, lane, lanes, p.K, block, far);
            for (int64_t row = 0; row < p.M; row += Kernel::kStrip)
                finish<Kernel>(product, sums + row * cut.tile, cut.tile, row, lane, smaller(Kernel::kStrip, p.M - row),
                               lanes);
        } else {
            By::multiply(sums, chains, cut.tile, packed, cut.count, product.a, lane, lanes, p.K, block, far);
            float* rows = chains + cut.tile_floats;
            for (int64_t row = 0; row < lanes; ++row)
                for (int64_t column = 0; column < p.N; ++column)
                    rows[row * p.N + column] = sums[column * cut.tile + row];
            finish<Kernel>(product, rows, p.N, lane, 0, lanes, p.N);
        }
    });
    if (epilogue.dbias != nullptr) add_row_blocks(epilogue.dbias, partial, divide_up(p.M, Kernel::kStrip), p.N, p.N);
}

}  // namespace
}  // namespace llmcore
