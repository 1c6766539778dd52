// y = op(a) op(b) in bf16 with float sums, for compute capability 8.0 and later: cp.async, ldmatrix, mma.sync.
//
// A block computes one tile of y. It goes along K in steps of 64, for each of which a stage of shared memory holds a
// tile of either operand; while the warps multiply one stage, the copies of the next ones are under way. Within a tile
// a warp multiplies its own rectangle in steps of 16, and loads the next step's fragments before it multiplies this
// one's. Every sum runs over its part of k in order, whatever the tile. At the end the sums go through shared memory to
// the epilogue, which then works on whole lines of y.
#include "cuda/arch/matrix.cuh"
#include "cuda/matmul_epilogue.cuh"
#include "cuda/matmul_tile.cuh"
#include "cuda/matmul_variants.cuh"

namespace llmcore {
namespace {

// A tile of kBlockM x kBlockN for kWarpsM x kWarpsN warps.
template <int kBlockM_, int kBlockN_, int kWarpsM, int kWarpsN_, int kStages_>
struct MmaTile {
    static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_, kStages = kStages_, kWarpsN = kWarpsN_;
    static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
    static constexpr int kWarpM = kBlockM / kWarpsM, kWarpN = kBlockN / kWarpsN;
    static_assert(kWarpM <= 64 && kWarpN <= 64, "a warp's rows lie in one chunk of an MN-major tile");
    static constexpr int kBytesA = kBlockM * kBlockK * 2, kStageBytes = kBytesA + kBlockN * kBlockK * 2;
    static constexpr int kSumsBytes = kBlockM * kSumsPitch<kBlockN> * 4;
    static constexpr int kSharedBytes = kStages * kStageBytes > kSumsBytes ? kStages * kStageBytes : kSumsBytes;
};

using LargeTile = MmaTile<128, 128, 2, 2, 3>;  // 96 KB
using SmallTile = MmaTile<64, 64, 2, 2, 3>;    // 48 KB

// ---------------------------------------------------------------------------------------------------------------------
// fragments

// A warp's rows of an operand's tile, from which ldmatrix takes 16x16 at a time: four 8x8, one row of them per lane.
// The lane's address at (16 i, 16 s) of (rows, k) follows from its address at (0, 0): one of i and s moves along a
// line, which is two pieces and, since swizzling is an XOR, XORs with 32 bytes each; the other moves by 16 lines.
template <Major kMajor>
struct WarpRows {
    uint32_t lane_address;
    LLMCORE_DEVICE uint32_t at(int i, int s) const {
        if constexpr (kMajor == Major::kK) return (lane_address ^ uint32_t(s * 32)) + uint32_t(i * 16 * 128);
        return (lane_address ^ uint32_t(i * 32)) + uint32_t(s * 16 * 128);
    }
};

// Of op(a): the 8x8 come in the order (rows, k) = (0, 0), (8, 0), (0, 8), (8, 8).
template <Major kMajor>
LLMCORE_DEVICE WarpRows<kMajor> warp_rows_a(uint32_t tile, int row) {
    const int lane = int(threadIdx.x) % 32;
    if constexpr (kMajor == Major::kK) return {tile + swizzled(row + lane % 16, lane / 16)};
    return {tile + swizzled(row / 64 * 64 + lane / 16 * 8 + lane % 8, row % 64 / 8 + lane / 8 % 2)};
}

// Of op(b)^T: (0, 0), (0, 8), (8, 0), (8, 8), so that the first two registers are mma.sync's operand for eight rows and
// the last two that for the next eight.
template <Major kMajor>
LLMCORE_DEVICE WarpRows<kMajor> warp_rows_b(uint32_t tile, int row) {
    const int lane = int(threadIdx.x) % 32;
    if constexpr (kMajor == Major::kK) return {tile + swizzled(row + lane / 16 * 8 + lane % 8, lane / 8 % 2)};
    return {tile + swizzled(row / 64 * 64 + lane % 16, row % 64 / 8 + lane / 16)};
}

// 16 k of a warp's rows.
template <class Tile>
struct Fragments {
    uint32_t a[Tile::kWarpM / 16][4], b[Tile::kWarpN / 16][4];
};

template <class Tile, Major kMajorA, Major kMajorB>
LLMCORE_DEVICE void load_fragments(Fragments<Tile>& f, WarpRows<kMajorA> a, WarpRows<kMajorB> b, int s) {
#pragma unroll
    for (int i = 0; i < Tile::kWarpM / 16; ++i) ptx::ldmatrix<4, kMajorA == Major::kMn>(f.a[i], a.at(i, s));
#pragma unroll
    for (int j = 0; j < Tile::kWarpN / 16; ++j) ptx::ldmatrix<4, kMajorB == Major::kMn>(f.b[j], b.at(j, s));
}

// A warp's part of a tile of y: sums[i][j] is the 16x8 at (16 i, 8 j).
template <class Tile>
using WarpSums = float[Tile::kWarpM / 16][Tile::kWarpN / 8][4];

template <class Tile>
LLMCORE_DEVICE void multiply(WarpSums<Tile>& sums, const Fragments<Tile>& f) {
#pragma unroll
    for (int i = 0; i < Tile::kWarpM / 16; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kWarpN / 8; ++j) ptx::mma_bf16(sums[i][j], f.a[i], &f.b[j / 2][j % 2 * 2]);
}

// One stage: 64 k, sixteen at a time.
template <class Tile, Major kMajorA, Major kMajorB>
LLMCORE_DEVICE void multiply_stage(WarpSums<Tile>& sums, WarpRows<kMajorA> a, WarpRows<kMajorB> b) {
    constexpr int kSixteens = kBlockK / 16;
    Fragments<Tile> fragments[2];
    load_fragments<Tile>(fragments[0], a, b, 0);
#pragma unroll
    for (int s = 0; s < kSixteens; ++s) {
        if (s + 1 < kSixteens) load_fragments<Tile>(fragments[(s + 1) % 2], a, b, s + 1);
        multiply<Tile>(sums, fragments[s % 2]);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// kernel

template <class Tile, Major kMajorA, Major kMajorB, class Out>
__global__ void __launch_bounds__(Tile::kThreads)
    matmul_mma_kernel(TileEpilogue<Out> epilogue, Operand a, Operand b, size_t a_step, size_t b_step, int K, int parts,
                      int part_k) {
    const SharedTile shared{shared_memory<char>(), shared_address(shared_memory<char>())};
    const int tiles_m = (epilogue.M + Tile::kBlockM - 1) / Tile::kBlockM;
    const int tiles_n = (epilogue.N + Tile::kBlockN - 1) / Tile::kBlockN;
    const TileIndex tile = tile_of_block(blockIdx.x, tiles_m, tiles_n);
    const int row0 = tile.m * Tile::kBlockM, column0 = tile.n * Tile::kBlockN;
    const int warp = int(threadIdx.x) / 32;
    const int m = warp / Tile::kWarpsN * Tile::kWarpM, n = warp % Tile::kWarpsN * Tile::kWarpN;
    a.data += size_t(tile.matrix / parts) * a_step;
    b.data += size_t(tile.matrix / parts) * b_step;

    const int first_k = tile.matrix % parts * part_k, count_k = K - first_k < part_k ? K - first_k : part_k;
    const int steps = (count_k + kBlockK - 1) / kBlockK;
    auto stage = [&](int step) { return shared.at(step % Tile::kStages * Tile::kStageBytes); };
    auto copy_stage = [&](int step) {
        if (step < steps) {
            const int k0 = first_k + step * kBlockK;
            copy_tile<kMajorA, Tile::kBlockM, Tile::kThreads>(stage(step), a, row0, k0);
            copy_tile<kMajorB, Tile::kBlockN, Tile::kThreads>(stage(step).at(Tile::kBytesA), b, column0, k0);
        }
        ptx::cp_async_commit();  // past the end, too: the waits below count groups
    };

    WarpSums<Tile> sums = {};
#pragma unroll
    for (int step = 0; step < Tile::kStages - 1; ++step) copy_stage(step);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        ptx::cp_async_wait<Tile::kStages - 2>();
        __syncthreads();  // this stage is here for all, and all are done with the one that is refilled now
        copy_stage(step + Tile::kStages - 1);
        const uint32_t tile_a = stage(step).address;
        multiply_stage<Tile>(sums, warp_rows_a<kMajorA>(tile_a, m), warp_rows_b<kMajorB>(tile_a + Tile::kBytesA, n));
    }

    __syncthreads();  // the stages have been read, and become the tile of sums
    float* kept = shared_memory<float>();
#pragma unroll
    for (int i = 0; i < Tile::kWarpM / 16; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kWarpN / 8; ++j) keep_sums<Tile::kBlockN>(kept, m + i * 16, n + j * 8, sums[i][j]);
    __syncthreads();
    if (epilogue.backward)
        finish_tile_backward<Tile::kBlockM, Tile::kBlockN, Tile::kThreads>(epilogue, kept, tile.m, row0, column0);
    else
        finish_tile<Tile::kBlockM, Tile::kBlockN, Tile::kThreads>(epilogue, kept, int(threadIdx.x), tile.matrix, row0,
                                                                  column0);
}

// ---------------------------------------------------------------------------------------------------------------------
// launch

// rows x K of an operand as it is stored; `step` is from one matrix to the next.
Operand operand_of(const bf16* data, int64_t rows, int64_t K, int64_t row_step, Major major, int64_t step) {
    const int64_t outer = major == Major::kK ? rows : K, inner = major == Major::kK ? K : rows;
    const bool whole_pieces = reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_step % 8 == 0 && step % 8 == 0;
    return {data, static_cast<int>(outer), static_cast<int>(inner), row_step, whole_pieces};
}

template <class Tile, Major kMajorA, Major kMajorB, class Out>
void start(const Cuda& cuda, const Cut& cut, Out* y, const bf16* a, const bf16* b, const MatmulProblem& p,
           const MatmulEpilogue<Out>& epilogue, float* column_sums) {
    const unsigned matrices = static_cast<unsigned>(p.batch) * static_cast<unsigned>(cut.parts);
    const unsigned blocks = tiles_of(p.M, Tile::kBlockM) * tiles_of(p.N, Tile::kBlockN) * matrices;
    const int64_t b_row = p.transpose_b ? p.K : p.N;
    launch({blocks, Tile::kThreads, Tile::kSharedBytes, cuda.stream}, matmul_mma_kernel<Tile, kMajorA, kMajorB, Out>,
           tile_epilogue(y, p, epilogue, column_sums), operand_of(a, p.M, p.K, p.a_row(), kMajorA, p.a_step),
           operand_of(b, p.N, p.K, b_row, kMajorB, p.b_step), static_cast<size_t>(p.a_step),
           static_cast<size_t>(p.b_step), static_cast<int>(p.K), cut.parts, cut.part_k);
}

template <class Tile, class Out>
void start_for_majors(const Cuda& cuda, const Cut& cut, Out* y, const bf16* a, const bf16* b, const MatmulProblem& p,
                      const MatmulEpilogue<Out>& epilogue, float* column_sums) {
    if (!p.transpose_a && p.transpose_b)
        return start<Tile, Major::kK, Major::kK>(cuda, cut, y, a, b, p, epilogue, column_sums);
    if (!p.transpose_a) return start<Tile, Major::kK, Major::kMn>(cuda, cut, y, a, b, p, epilogue, column_sums);
    if (p.transpose_b) return start<Tile, Major::kMn, Major::kK>(cuda, cut, y, a, b, p, epilogue, column_sums);
    start<Tile, Major::kMn, Major::kMn>(cuda, cut, y, a, b, p, epilogue, column_sums);
}

}  // namespace

template <class Out>
void matmul_sm80(const Cuda& cuda, const Cut& cut, Out* y, const bf16* a, const bf16* b, const MatmulProblem& problem,
                 const MatmulEpilogue<Out>& epilogue, float* column_sums) {
    if (cut.tile == TileSize::kLarge)
        start_for_majors<LargeTile>(cuda, cut, y, a, b, problem, epilogue, column_sums);
    else
        start_for_majors<SmallTile>(cuda, cut, y, a, b, problem, epilogue, column_sums);
}

template void matmul_sm80(const Cuda&, const Cut&, bf16*, const bf16*, const bf16*, const MatmulProblem&,
                          const MatmulEpilogue<bf16>&, float*);
template void matmul_sm80(const Cuda&, const Cut&, float*, const bf16*, const bf16*, const MatmulProblem&,
                          const MatmulEpilogue<float>&, float*);

}  // namespace llmcore
