// y = op(a) op(b) by multiply-adds in float, for float operands and for mixed ones; any compute capability.
//
// A block computes one tile of y, a thread 8x8 or 4x4 of it. It goes along K in steps of 16, whose operands lie in
// shared memory as (k, row), so that four values come with one load. While one of two buffers is multiplied, the next
// step's values are on their way to registers. Every sum runs over its part of k in order, one fused multiply-add after
// another. At the end the sums go through shared memory to the epilogue.
#include "cuda/matmul_epilogue.cuh"
#include "cuda/matmul_tile.cuh"
#include "cuda/matmul_variants.cuh"

namespace llmcore {
namespace {

constexpr int kStepK = 16;

// kBlock x kBlock; a thread has kFours x kFours groups of 4x4, evenly spread.
template <int kBlock_, int kFours_>
struct SimtTile {
    static constexpr int kBlock = kBlock_, kFours = kFours_, kPart = kBlock / kFours, kPer = 4 * kFours;
    static constexpr int kAcross = kBlock / kPer, kThreads = kAcross * kAcross;
    static constexpr int kPitch = kBlock + 4;  // floats from one k to the next
    static constexpr int kElements = kBlock * kStepK / kThreads, kBufferFloats = 2 * kStepK * kPitch;
    static constexpr int kSumsFloats = kBlock * kSumsPitch<kBlock>;
    static constexpr int kSharedFloats = 2 * kBufferFloats > kSumsFloats ? 2 * kBufferFloats : kSumsFloats;
};

using LargeTile = SimtTile<128, 2>;  // 68 KB
using SmallTile = SimtTile<64, 1>;   // 18 KB

// op(a), or op(b)^T: element (row, k) is data[row * row_step + k * k_step]. One of the steps is 1.
template <class T>
struct FloatOperand {
    const T* data;
    int rows;
    int64_t row_step, k_step;
};

// Which elements of a step are this thread's: (row_of(i), k_of(i)). Neighbouring threads take neighbouring elements of
// memory. Where k is contiguous, only eight of the sixteen: a warp then has 8 k of 4 rows, which fall into different
// banks of a buffer whose k are kPitch apart, and the other eight come with the next i.
template <class Tile>
struct Share {
    static constexpr int kAlongK = kStepK / 2;
    static_assert(Tile::kPitch % 32 == 4, "the rows of 8 k begin 4 banks apart");
    int row, k, row_turn, k_turn, k_half;
    LLMCORE_DEVICE explicit Share(bool k_is_contiguous) {
        const int thread = int(threadIdx.x), along_rows = Tile::kBlock;
        row = k_is_contiguous ? thread / kAlongK : thread % along_rows;
        k = k_is_contiguous ? thread % kAlongK : thread / along_rows;
        row_turn = k_is_contiguous ? Tile::kThreads / kAlongK : 0;
        k_turn = k_is_contiguous ? 0 : 2 * (Tile::kThreads / along_rows);
        k_half = k_is_contiguous ? kAlongK : Tile::kThreads / along_rows;
    }
    LLMCORE_DEVICE int row_of(int i) const { return row + i / 2 * row_turn; }
    LLMCORE_DEVICE int k_of(int i) const { return k + i / 2 * k_turn + i % 2 * k_half; }
};

template <class Tile, class T>
LLMCORE_DEVICE void load_values(float (&values)[Tile::kElements], const FloatOperand<T>& operand,
                                const Share<Tile>& share, int row0, int k0, int K) {
#pragma unroll
    for (int i = 0; i < Tile::kElements; ++i) {
        const int row = row0 + share.row_of(i), k = k0 + share.k_of(i);
        const size_t at = size_t(row) * size_t(operand.row_step) + size_t(k) * size_t(operand.k_step);
        values[i] = row < operand.rows && k < K ? to_float(operand.data[at]) : 0.0f;
    }
}

template <class Tile>
LLMCORE_DEVICE void keep_values(float* buffer, const float (&values)[Tile::kElements], const Share<Tile>& share) {
#pragma unroll
    for (int i = 0; i < Tile::kElements; ++i) buffer[share.k_of(i) * Tile::kPitch + share.row_of(i)] = values[i];
}

template <class Tile>
LLMCORE_DEVICE void load_fours(float (&values)[Tile::kPer], const float* buffer, int k, int first) {
#pragma unroll
    for (int part = 0; part < Tile::kFours; ++part) {
        float four[4];
        load_at_once(four, buffer + k * Tile::kPitch + part * Tile::kPart + first);
#pragma unroll
        for (int i = 0; i < 4; ++i) values[part * 4 + i] = four[i];
    }
}

template <class Tile>
LLMCORE_DEVICE void multiply_step(float (&sums)[Tile::kPer][Tile::kPer], const float* buffer_a, const float* buffer_b,
                                  int m, int n) {
#pragma unroll 4  // all sixteen at once would want more registers than there are
    for (int k = 0; k < kStepK; ++k) {
        float a[Tile::kPer], b[Tile::kPer];
        load_fours<Tile>(a, buffer_a, k, m);
        load_fours<Tile>(b, buffer_b, k, n);
#pragma unroll
        for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
            for (int j = 0; j < Tile::kPer; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
}

template <class Tile>
LLMCORE_DEVICE void keep_thread_sums(float* kept, const float (&sums)[Tile::kPer][Tile::kPer], int m, int n) {
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
        for (int part = 0; part < Tile::kFours; ++part) {
            const int row = i / 4 * Tile::kPart + m + i % 4, column = part * Tile::kPart + n;
            const float* from = &sums[i][part * 4];
            store_at_once(kept + row * kSumsPitch<Tile::kBlock> + column, {from[0], from[1], from[2], from[3]});
        }
}

// ---------------------------------------------------------------------------------------------------------------------
// kernel

template <class Tile, class Out, class A, class B>
__global__ void __launch_bounds__(Tile::kThreads)
    matmul_simt_kernel(TileEpilogue<Out> epilogue, FloatOperand<A> a, FloatOperand<B> b, size_t a_step, size_t b_step,
                       int K, int parts, int part_k) {
    float* shared = shared_memory<float>();
    const int tiles_m = (epilogue.M + Tile::kBlock - 1) / Tile::kBlock;
    const int tiles_n = (epilogue.N + Tile::kBlock - 1) / Tile::kBlock;
    const TileIndex tile = tile_of_block(blockIdx.x, tiles_m, tiles_n);
    const int row0 = tile.m * Tile::kBlock, column0 = tile.n * Tile::kBlock;
    const int m = int(threadIdx.x) / Tile::kAcross * 4, n = int(threadIdx.x) % Tile::kAcross * 4;
    a.data += size_t(tile.matrix / parts) * a_step;
    b.data += size_t(tile.matrix / parts) * b_step;
    const int first_k = tile.matrix % parts * part_k, end_k = K - first_k < part_k ? K : first_k + part_k;

    const Share<Tile> share_a(a.k_step == 1), share_b(b.k_step == 1);
    float sums[Tile::kPer][Tile::kPer] = {}, next_a[Tile::kElements], next_b[Tile::kElements];
    load_values<Tile>(next_a, a, share_a, row0, first_k, end_k);
    load_values<Tile>(next_b, b, share_b, column0, first_k, end_k);
#pragma unroll 1
    for (int k0 = first_k; k0 < end_k; k0 += kStepK) {
        float* buffer_a = shared + k0 / kStepK % 2 * Tile::kBufferFloats;
        float* buffer_b = buffer_a + kStepK * Tile::kPitch;
        keep_values<Tile>(buffer_a, next_a, share_a);
        keep_values<Tile>(buffer_b, next_b, share_b);
        __syncthreads();  // one barrier a step is enough: nobody is further than the other buffer
        load_values<Tile>(next_a, a, share_a, row0, k0 + kStepK, end_k);
        load_values<Tile>(next_b, b, share_b, column0, k0 + kStepK, end_k);
        multiply_step<Tile>(sums, buffer_a, buffer_b, m, n);
    }

    __syncthreads();  // the buffers have been read, and become the tile of sums
    keep_thread_sums<Tile>(shared, sums, m, n);
    __syncthreads();
    if (epilogue.backward)
        finish_tile_backward<Tile::kBlock, Tile::kBlock, Tile::kThreads>(epilogue, shared, tile.m, row0, column0);
    else
        finish_tile<Tile::kBlock, Tile::kBlock, Tile::kThreads>(epilogue, shared, int(threadIdx.x), tile.matrix, row0,
                                                                column0);
}

// ---------------------------------------------------------------------------------------------------------------------
// launch

template <class Tile, class Out, class A, class B>
void start(const Cuda& cuda, const Cut& cut, Out* y, const A* a, const B* b, const MatmulProblem& p,
           const MatmulEpilogue<Out>& epilogue, float* column_sums) {
    const int M = static_cast<int>(p.M), N = static_cast<int>(p.N), K = static_cast<int>(p.K);
    const FloatOperand<A> operand_a{a, M, p.transpose_a ? 1 : p.a_row(), p.transpose_a ? p.a_row() : 1};
    const FloatOperand<B> operand_b{b, N, p.transpose_b ? p.K : 1, p.transpose_b ? 1 : p.N};
    const unsigned matrices = static_cast<unsigned>(p.batch) * static_cast<unsigned>(cut.parts);
    const unsigned blocks = tiles_of(p.M, Tile::kBlock) * tiles_of(p.N, Tile::kBlock) * matrices;
    launch({blocks, Tile::kThreads, Tile::kSharedFloats * sizeof(float), cuda.stream},
           matmul_simt_kernel<Tile, Out, A, B>, tile_epilogue(y, p, epilogue, column_sums), operand_a, operand_b,
           static_cast<size_t>(p.a_step), static_cast<size_t>(p.b_step), K, cut.parts, cut.part_k);
}

}  // namespace

template <class Out, class A, class B>
void matmul_simt(const Cuda& cuda, const Cut& cut, Out* y, const A* a, const B* b, const MatmulProblem& problem,
                 const MatmulEpilogue<Out>& epilogue, float* column_sums) {
    if (cut.tile == TileSize::kLarge)
        start<LargeTile>(cuda, cut, y, a, b, problem, epilogue, column_sums);
    else
        start<SmallTile>(cuda, cut, y, a, b, problem, epilogue, column_sums);
}

#define LLMCORE_MATMUL_SIMT(Out, A, B)                                                                 \
    template void matmul_simt(const Cuda&, const Cut&, Out*, const A*, const B*, const MatmulProblem&, \
                              const MatmulEpilogue<Out>&, float*);
LLMCORE_MATMUL_SIMT(float, float, float)
LLMCORE_MATMUL_SIMT(float, float, bf16)
LLMCORE_MATMUL_SIMT(bf16, float, bf16)

}  // namespace llmcore
