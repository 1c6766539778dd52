// y = op(a) op(b) in bf16 with float sums, for compute capability 9.0: TMA, mbarrier, wgmma, warp-specialised.
//
// A block computes one tile of 128x128. Its first warpgroup produces: one thread goes along K in steps of 64 and has
// TMA bring both operands' tiles into the next of four stages. The two others consume: each multiplies 64 rows, one
// batch of wgmma always in flight behind the one being issued. full[s] says that stage s has landed, empty[s] that both
// consumers have read it. At the end the stages are idle, and the sums go through them to the epilogue.
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/arch/wgmma.cuh"
#include "cuda/matmul_epilogue.cuh"
#include "cuda/matmul_tile.cuh"
#include "cuda/matmul_variants.cuh"
#include "cuda/tensor_map.h"

namespace llmcore {
namespace {

constexpr int kBlockM = 128, kBlockN = 128, kStages = 4, kThreads = 384, kConsumers = 2;
constexpr int kChunkBytes = 64 * kBlockK * 2;  // 64 rows by 64 k, of either major
constexpr int kBytesA = 2 * kChunkBytes, kBytesB = 2 * kChunkBytes, kStageBytes = kBytesA + kBytesB;
constexpr int kWarpgroupSums = 64 * kSumsPitch<kBlockN>;  // floats
constexpr int kBarriers = kStages * kStageBytes, kSharedBytes = kBarriers + 2 * kStages * 8;
static_assert(kConsumers * kWarpgroupSums * 4 <= kBarriers, "the sums fit into the stages");

// Where stage s and its barriers stand, and how often the ring has gone round at a step.
struct Ring {
    uint32_t shared;
    LLMCORE_DEVICE static uint32_t stage(int step) { return uint32_t(step % kStages); }
    LLMCORE_DEVICE static uint32_t parity(int step) { return uint32_t(step / kStages & 1); }
    LLMCORE_DEVICE uint32_t a(int step) const { return shared + stage(step) * kStageBytes; }
    LLMCORE_DEVICE uint32_t b(int step) const { return a(step) + kBytesA; }
    LLMCORE_DEVICE uint32_t full(int step) const { return shared + kBarriers + stage(step) * 8; }
    LLMCORE_DEVICE uint32_t empty(int step) const { return full(step) + kStages * 8; }
};

// ---------------------------------------------------------------------------------------------------------------------
// producer

// 128 rows at row0 by 64 k at k0. An MN-major operand comes in two chunks of 64 rows.
template <Major kMajor>
LLMCORE_DEVICE void load_tile(uint32_t to, const CUtensorMap* map, uint32_t barrier, int row0, int k0, int matrix) {
    if constexpr (kMajor == Major::kK) {
        ptx::tma_load(to, map, barrier, {k0, row0, matrix});
    } else {
        ptx::tma_load(to, map, barrier, {row0, k0, matrix});
        ptx::tma_load(to + kChunkBytes, map, barrier, {row0 + 64, k0, matrix});
    }
}

template <Major kMajorA, Major kMajorB>
LLMCORE_DEVICE void produce(const Ring& ring, const CUtensorMap* map_a, const CUtensorMap* map_b, int row0, int column0,
                            int matrix_a, int matrix_b, int steps) {
#pragma unroll 1  // unrolled, it would not fit the producer's few registers
    for (int step = 0; step < steps; ++step) {
        ptx::mbarrier_wait(ring.empty(step), ring.parity(step) ^ 1);  // a fresh barrier lets the first round pass
        ptx::mbarrier_arrive_expect(ring.full(step), kStageBytes);
        load_tile<kMajorA>(ring.a(step), map_a, ring.full(step), row0, step * kBlockK, matrix_a);
        load_tile<kMajorB>(ring.b(step), map_b, ring.full(step), column0, step * kBlockK, matrix_b);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// consumers

// The descriptor of 16 k at `k` of a tile. From one group of eight lines to the next are 1024 bytes, from one chunk of
// 64 rows to the next kChunkBytes.
template <Major kMajor>
LLMCORE_DEVICE uint64_t operand_at(uint32_t tile, int k) {
    return ptx::operand(tile + uint32_t(kMajor == Major::kK ? k * 2 : k * 128), kChunkBytes, 1024);
}

template <Major kMajorA, Major kMajorB>
LLMCORE_DEVICE void consume(float (&sums)[kBlockN / 2], const Ring& ring, int part, int steps) {
    const bool speaks = threadIdx.x % 128 == 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        ptx::mbarrier_wait(ring.full(step), ring.parity(step));
        const uint32_t a = ring.a(step) + uint32_t(part * kChunkBytes), b = ring.b(step);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kBlockK; k += 16)
            ptx::wgmma<kBlockN, kMajorA == Major::kMn, kMajorB == Major::kMn>(
                sums, operand_at<kMajorA>(a, k), operand_at<kMajorB>(b, k), step > 0 || k > 0);
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();  // the batch before this one has read its stage
        if (step > 0 && speaks) ptx::mbarrier_arrive(ring.empty(step - 1));
    }
    ptx::wgmma_wait<0>();
}

template <class Out>
LLMCORE_DEVICE void finish(const TileEpilogue<Out>& epilogue, const float (&sums)[kBlockN / 2], int part, int matrix,
                           int row0, int column0) {
    const int thread = int(threadIdx.x) % 128;
    float* kept = shared_memory<float>() + part * kWarpgroupSums;
    ptx::bar_sync(1, 128 * kConsumers);  // every stage has been read by both
#pragma unroll
    for (int j = 0; j < kBlockN / 8; ++j) keep_sums<kBlockN>(kept, thread / 32 * 16, j * 8, &sums[j * 4]);
    if (part == 0)
        ptx::bar_sync(2, 128);
    else
        ptx::bar_sync(3, 128);
    finish_tile<64, kBlockN, 128>(epilogue, kept, thread, matrix, row0 + part * 64, column0);
}

// ---------------------------------------------------------------------------------------------------------------------
// kernel

template <Major kMajorA, Major kMajorB, class Out>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_wgmma_kernel(TileEpilogue<Out> epilogue, const __grid_constant__ CUtensorMap map_a,
                        const __grid_constant__ CUtensorMap map_b, bool shared_a, bool shared_b, int K) {
    const Ring ring{shared_address(shared_memory<char>())};
    const TileIndex tile =
        tile_of_block(blockIdx.x, (epilogue.M + kBlockM - 1) / kBlockM, (epilogue.N + kBlockN - 1) / kBlockN);
    const int row0 = tile.m * kBlockM, column0 = tile.n * kBlockN, steps = (K + kBlockK - 1) / kBlockK;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kStages; ++s) {
            ptx::mbarrier_init(ring.full(s), 1);
            ptx::mbarrier_init(ring.empty(s), kConsumers);
        }
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ptx::set_max_registers_down<40>();
        if (threadIdx.x == 0)
            produce<kMajorA, kMajorB>(ring, &map_a, &map_b, row0, column0, shared_a ? 0 : tile.matrix,
                                      shared_b ? 0 : tile.matrix, steps);
    } else {
        ptx::set_max_registers_up<232>();
        const int part = int(threadIdx.x) / 128 - 1;
        float sums[kBlockN / 2];
        consume<kMajorA, kMajorB>(sums, ring, part, steps);
        finish(epilogue, sums, part, tile.matrix, row0, column0);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// launch

// rows x K of an operand, `matrices` times (1 where all share it); a load takes 128 rows by 64 k, or 64 k by 64 rows.
CUtensorMap map_of(const bf16* data, int64_t rows, int64_t K, int64_t batch, int64_t step, Major major) {
    const int64_t inner = major == Major::kK ? K : rows, outer = major == Major::kK ? rows : K;
    const int64_t matrices = step == 0 ? 1 : batch, matrix_step = step == 0 ? inner * outer : step;
    return bf16_tensor_map(data, {inner, outer, matrices}, {inner, matrix_step},
                           {kLineElements, major == Major::kK ? 128u : 64u, 1});
}

template <Major kMajorA, Major kMajorB, class Out>
void start(const Cuda& cuda, Out* y, const bf16* a, const bf16* b, const MatmulProblem& p,
           const MatmulEpilogue<Out>& epilogue) {
    const unsigned blocks = tiles_of(p.M, kBlockM) * tiles_of(p.N, kBlockN) * static_cast<unsigned>(p.batch);
    launch({blocks, kThreads, kSharedBytes, cuda.stream}, matmul_wgmma_kernel<kMajorA, kMajorB, Out>,
           tile_epilogue(y, p, epilogue), map_of(a, p.M, p.K, p.batch, p.a_step, kMajorA),
           map_of(b, p.N, p.K, p.batch, p.b_step, kMajorB), p.a_step == 0, p.b_step == 0, static_cast<int>(p.K));
}

// Whether TMA can describe (.., outer, inner) bf16.
bool tma_takes(const bf16* data, int64_t inner, int64_t step) {
    if (reinterpret_cast<uintptr_t>(data) % 16 != 0) return false;  // a tensor starts on 16 bytes
    if (inner % 8 != 0) return false;                               // and so does each of its rows
    return step % 8 == 0;                                           // and each of its matrices
}

}  // namespace

bool matmul_sm90_supports(const bf16* a, const bf16* b, const MatmulProblem& p) {
    if (p.K == 0) return false;  // the first wgmma writes the sums; with none they would be nothing
    if (!tma_takes(a, p.transpose_a ? p.M : p.K, p.a_step)) return false;
    if (!tma_takes(b, p.transpose_b ? p.K : p.N, p.b_step)) return false;
    return true;
}

template <class Out>
void matmul_sm90(const Cuda& cuda, Out* y, const bf16* a, const bf16* b, const MatmulProblem& p,
                 const MatmulEpilogue<Out>& epilogue) {
    if (!p.transpose_a && p.transpose_b) return start<Major::kK, Major::kK>(cuda, y, a, b, p, epilogue);
    if (!p.transpose_a) return start<Major::kK, Major::kMn>(cuda, y, a, b, p, epilogue);
    if (p.transpose_b) return start<Major::kMn, Major::kK>(cuda, y, a, b, p, epilogue);
    start<Major::kMn, Major::kMn>(cuda, y, a, b, p, epilogue);
}

template void matmul_sm90(const Cuda&, bf16*, const bf16*, const bf16*, const MatmulProblem&,
                          const MatmulEpilogue<bf16>&);
template void matmul_sm90(const Cuda&, float*, const bf16*, const bf16*, const MatmulProblem&,
                          const MatmulEpilogue<float>&);

}  // namespace llmcore
