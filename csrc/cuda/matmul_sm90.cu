// y = op(a) op(b) in bf16 with float sums, for compute capability 9.0: TMA, mbarrier, wgmma, warp-specialised.
//
// As many blocks as multiprocessors, alone or in clusters of two, each computing tiles until none is left
// (matmul_sm90_schedule.cuh). The first warpgroup of a block produces: one thread has TMA fill a ring of stages, tile
// after tile. The two others consume (matmul_sm90_mainloop.cuh): either both multiply a half of the same tile, or each
// a tile of its own, taking turns with the tensor cores, so that one's epilogue hides behind the other's products. bf16
// results leave by TMA (matmul_sm90_store.cuh), float ones are stored or added (matmul_sm90_add.cuh), in parts of K
// where tiles are too few to fill the device.
#include <algorithm>
#include <type_traits>

#include "core/check.h"
#include "cuda/column_sums.cuh"
#include "cuda/fours.cuh"
#include "cuda/matmul_sm90_add.cuh"
#include "cuda/matmul_sm90_mainloop.cuh"
#include "cuda/matmul_sm90_store.cuh"
#include "cuda/matmul_variants.cuh"
#include "cuda/tensor_map.h"

namespace llmcore {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// kernel

template <class Tile>
LLMCORE_DEVICE void start_barriers(const HopperShared<Tile>& shared, int cluster) {
    for (int stage = 0; stage < Tile::kStages; ++stage) {
        ptx::mbarrier_init(shared.full(stage), 1);
        ptx::mbarrier_init(shared.empty(stage), uint32_t(Tile::kReaders * cluster));
    }
    for (int consumer = 0; consumer < kConsumers; ++consumer)
        for (int turn = 0; turn < 2; ++turn) ptx::mbarrier_init(shared.box_loaded(consumer, turn), 1);
    ptx::fence_mbarrier_init();
}

// Ping-pong: a consumer multiplies only when the other one has issued and awaited all of its tile's products. The
// hardware would otherwise mix them, and both would finish late, together.
LLMCORE_DEVICE void wait_for_tensor_cores(int consumer) {
    if (consumer == 0)
        ptx::bar_sync(3, kConsumers * kWarpgroup);
    else
        ptx::bar_sync(4, kConsumers * kWarpgroup);
}
LLMCORE_DEVICE void pass_tensor_cores(int consumer) {
    if (consumer == 0)
        ptx::bar_arrive(4, kConsumers * kWarpgroup);
    else
        ptx::bar_arrive(3, kConsumers * kWarpgroup);
}

template <class Tile, Major kMajorA, Major kMajorB, class Store, class Pieces>
LLMCORE_DEVICE void consume(Store& store, const HopperShared<Tile>& shared, const Pieces& schedule, int consumer) {
    RingPlace<Tile> place;
    const int turns = Tile::kPingPong ? kConsumers : 1;  // every which piece of the block is this consumer's
    int piece = schedule.first();
    if (Tile::kPingPong && consumer == 1) {
        place.skip(schedule.steps_of(piece));
        piece += schedule.stride();
    }
#pragma unroll 1
    for (; schedule.has(piece); piece += turns * schedule.stride()) {
        store.begin(schedule, piece);
        HopperSums<Tile> sums;
        if (Tile::kPingPong && piece >= schedule.stride()) wait_for_tensor_cores(consumer);
        multiply<Tile, kMajorA, kMajorB>(sums, shared, place, Tile::first_part(consumer), schedule.steps_of(piece),
                                         schedule.cluster);
        const int next = piece + schedule.stride();
        if (Tile::kPingPong && schedule.has(next)) {
            pass_tensor_cores(consumer);
            place.skip(schedule.steps_of(next));  // the other one's
        }
        store.finish(sums, schedule, piece);
    }
    store.end();
}

template <class Tile, class Output>
struct StoreOf;
template <class Tile>
struct StoreOf<Tile, HopperOutput> {
    using Type = BoxStore<Tile>;
};
template <class Tile>
struct StoreOf<Tile, FloatOutput> {
    using Type = FloatStore<Tile>;
};

template <class Output>
using PiecesOf = Schedule<std::is_same_v<Output, FloatOutput>>;

template <class Tile, Major kMajorA, Major kMajorB, class Output>
__global__ void __launch_bounds__(kHopperThreads, 1)
    matmul_wgmma_kernel(const __grid_constant__ HopperOperands operands, const __grid_constant__ Output output,
                        PiecesOf<Output> schedule) {
    const HopperShared<Tile> shared{shared_address(shared_memory<char>())};
    if (threadIdx.x == 0) {
        ptx::prefetch_tensor_map(&operands.a);
        ptx::prefetch_tensor_map(&operands.b);
        start_barriers(shared, schedule.cluster);
    }
    ptx::cluster_sync();
    if (threadIdx.x < kWarpgroup) {
        ptx::set_max_registers_down<kProducerRegisters>();
        if (threadIdx.x == 0) produce<Tile, kMajorA, kMajorB>(shared, operands, schedule);
        __syncwarp();
    } else {
        ptx::set_max_registers_up<kConsumerRegisters>();
        const int consumer = int(threadIdx.x) / kWarpgroup - 1;
        typename StoreOf<Tile, Output>::Type store(output, shared, consumer);
        consume<Tile, kMajorA, kMajorB>(store, shared, schedule, consumer);
        __syncwarp();
    }
    ptx::cluster_sync();  // nobody leaves while the other block may still write here
}

// ---------------------------------------------------------------------------------------------------------------------
// launch

// rows x K of an operand, `matrices` times (1 where all share it).
CUtensorMap map_of(const bf16* data, int64_t rows, int64_t K, int64_t row_step, int64_t batch, int64_t step,
                   Major major, int box_rows, int box_k) {
    const int64_t inner = major == Major::kK ? K : rows, outer = major == Major::kK ? rows : K;
    const int64_t matrices = step == 0 ? 1 : batch, matrix_step = step == 0 ? row_step * outer : step;
    return bf16_tensor_map(data, {inner, outer, matrices}, {row_step, matrix_step},
                           {kLineElements, static_cast<uint32_t>(major == Major::kK ? box_rows : box_k), 1});
}

// What stores and loads 64 rows of a result at once.
template <class Tile>
CUtensorMap box_map(const bf16* data, const MatmulProblem& p) {
    if (data == nullptr) return {};
    return bf16_tensor_map(data, {p.N, p.M, p.batch}, {p.y_row(), p.M * p.y_row()}, {Tile::kBoxColumns, 64, 1});
}

template <class Tile>
HopperOutput output_of(bf16* y, const MatmulProblem& p, const MatmulEpilogue<bf16>& e, float* workspace) {
    HopperOutput output{};
    const bool has_slope = e.slope_at != nullptr && e.activation != Activation::kNone;
    const bf16* beside = has_slope ? e.slope_at : e.residual != nullptr ? e.residual : p.accumulate ? y : nullptr;
    output.y = box_map<Tile>(y, p);
    output.pre_activation = box_map<Tile>(e.pre_activation, p);
    output.beside = box_map<Tile>(beside, p);
    output.bias = e.bias;
    output.activation = e.is_backward() && !has_slope ? Activation::kNone : e.activation;
    output.keeps_pre_activation = e.pre_activation != nullptr;
    output.reads = has_slope ? Beside::kSlope : beside != nullptr ? Beside::kAdd : Beside::kNothing;
    output.column_sums = e.dbias != nullptr ? workspace : nullptr;
    output.M = static_cast<int>(p.M);
    output.N = static_cast<int>(p.N);
    return output;
}

bool on_pair(const float* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 8 == 0;
}

template <class Tile>
FloatOutput output_of(float* y, const MatmulProblem& p, const MatmulEpilogue<float>& e, float* workspace) {
    const bool whole_pairs =
        p.y_row() % 2 == 0 && on_pair(y) && on_pair(e.bias) && on_pair(e.pre_activation) && on_pair(e.residual);
    return {{}, tile_epilogue(y, p, e), reinterpret_cast<uint32_t*>(workspace), false, whole_pairs};
}

// Parts of K that TMA adds as they come start from zeros, or from what y holds.
template <class Tile>
FloatOutput output_in_any_order(const Cuda& cuda, float* y, const MatmulProblem& p) {
    if (!p.accumulate)
        LLMCORE_CUDA_CHECK(cudaMemsetAsync(y, 0, size_t(p.batch * p.M * p.N) * sizeof(float), cuda.stream));
    FloatOutput output = output_of<Tile>(y, p, {}, nullptr);
    output.y = float_tensor_map(y, {p.N, p.M, p.batch}, {p.y_row(), p.M * p.y_row()}, {Tile::kBoxColumns / 2, 64, 1});
    output.in_any_order = true;
    return output;
}

// Between rows that lie apart nothing may be cleared.
bool tma_adds_to(const float* y, const MatmulProblem& p) {
    return reinterpret_cast<uintptr_t>(y) % 16 == 0 && p.y_row() % 4 == 0 && (p.accumulate || p.y_row() == p.N);
}

template <class Tile, class Output>
PiecesOf<Output> schedule_of(const Cuda& cuda, const MatmulChoice& choice, const MatmulProblem& p) {
    PiecesOf<Output> schedule{};
    const int all_clusters = std::max(cuda.multiprocessors / choice.cluster, 1);
    const int steps = static_cast<int>(tiles_of(p.K, kBlockK));
    schedule.units_m = static_cast<int>(tiles_of(p.M, Tile::kBlockM * choice.cluster));
    schedule.units_n = static_cast<int>(tiles_of(p.N, Tile::kBlockN));
    schedule.units = schedule.units_m * schedule.units_n * static_cast<int>(p.batch);
    schedule.count = schedule.units * choice.splits;
    schedule.steps = static_cast<int>(tiles_of(steps, choice.splits));
    schedule.cluster = choice.cluster;
    schedule.clusters = std::min(schedule.count, all_clusters);
    if (choice.streams) {
        const int64_t all_steps = int64_t(schedule.units) * steps;
        LLMCORE_CHECK(all_steps <= kMostStreamedSteps, "matmul_sm90: ", all_steps, " steps are too many for streams");
        schedule.clusters = static_cast<int>(std::min<int64_t>(all_steps, all_clusters));
        schedule.share = static_cast<int>(all_steps / schedule.clusters);
        schedule.longer = static_cast<int>(all_steps % schedule.clusters);
    }
    return schedule;
}

template <class Tile, Major kMajorA, Major kMajorB, class Out>
void start(const Cuda& cuda, const MatmulChoice& choice, Out* y, const bf16* a, const bf16* b, const MatmulProblem& p,
           const MatmulEpilogue<Out>& epilogue, float* workspace) {
    using Output = decltype(output_of<Tile>(y, p, epilogue, workspace));
    const PiecesOf<Output> schedule = schedule_of<Tile, Output>(cuda, choice, p);
    HopperOperands operands{};
    operands.a = map_of(a, p.M, p.K, p.a_row(), p.batch, p.a_step, kMajorA, Tile::kBlockM, kBlockK);
    operands.b = map_of(b, p.N, p.K, p.transpose_b ? p.K : p.N, p.batch, p.b_step, kMajorB,
                        Tile::kBlockN / choice.cluster, kBlockK / choice.cluster);
    operands.shared_a = p.a_step == 0;
    operands.shared_b = p.b_step == 0;

    bool in_turn = choice.in_parts();
    Output output = output_of<Tile>(y, p, epilogue, in_turn || epilogue.dbias != nullptr ? workspace : nullptr);
    if constexpr (std::is_same_v<Out, float>)
        if (in_turn && !choice.in_order && tma_adds_to(y, p)) {
            output = output_in_any_order<Tile>(cuda, y, p);
            in_turn = false;
        }
    if (in_turn)
        LLMCORE_CUDA_CHECK(cudaMemsetAsync(
            workspace, 0, size_t(schedule.units) * size_t(choice.cluster) * kConsumers * 4, cuda.stream));
    launch({.grid = static_cast<unsigned>(schedule.clusters * choice.cluster),
            .block = kHopperThreads,
            .shared_bytes = Tile::kSharedBytes,
            .stream = cuda.stream,
            .cluster = static_cast<unsigned>(choice.cluster),
            .all_resident = in_turn},
           matmul_wgmma_kernel<Tile, kMajorA, kMajorB, Output>, operands, output, schedule);
    if (epilogue.dbias != nullptr) add_partial_sums(cuda, epilogue.dbias, workspace, tiles_of(p.M, 64), p.N);
}

template <class Tile, class Out>
void start_tile(const Cuda& cuda, const MatmulChoice& choice, Out* y, const bf16* a, const bf16* b,
                const MatmulProblem& p, const MatmulEpilogue<Out>& epilogue, float* workspace) {
    if (!p.transpose_a && p.transpose_b)
        return start<Tile, Major::kK, Major::kK>(cuda, choice, y, a, b, p, epilogue, workspace);
    if (!p.transpose_a) return start<Tile, Major::kK, Major::kMn>(cuda, choice, y, a, b, p, epilogue, workspace);
    if (p.transpose_b) return start<Tile, Major::kMn, Major::kK>(cuda, choice, y, a, b, p, epilogue, workspace);
    start<Tile, Major::kMn, Major::kMn>(cuda, choice, y, a, b, p, epilogue, workspace);
}

// ---------------------------------------------------------------------------------------------------------------------
// what TMA can describe

// Tensors start on 16 bytes, and so does each of their rows and matrices.
bool tma_takes(const bf16* data, int64_t row, int64_t matrix = 0) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row % 8 == 0 && matrix % 8 == 0;
}

const char* refuse_output(const bf16* y, const MatmulProblem& p, const MatmulEpilogue<bf16>& e) {
    if (!tma_takes(y, p.y_row())) return "a row of y does not start on 16 bytes";
    if (!tma_takes(e.pre_activation, p.y_row())) return "a row of pre_activation does not start on 16 bytes";
    if (!tma_takes(e.residual, p.y_row())) return "a row of residual does not start on 16 bytes";
    if (!tma_takes(e.slope_at, p.y_row())) return "a row of slope_at does not start on 16 bytes";
    if (e.residual != nullptr && p.accumulate) return "y and residual would have to be read, and there is room for one";
    return nullptr;
}

const char* refuse_output(const float*, const MatmulProblem&, const MatmulEpilogue<float>& e) {
    return e.is_backward() ? "slopes and bias gradients are computed with bf16 results only" : nullptr;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Out>
const char* matmul_sm90_refusal(const Out* y, const bf16* a, const bf16* b, const MatmulProblem& p,
                                const MatmulEpilogue<Out>& epilogue) {
    if (p.K == 0) return "the first product writes the sums, and there is none";
    if (!tma_takes(a, p.a_row(), p.a_step)) return "a row of a does not start on 16 bytes";
    if (!tma_takes(b, p.transpose_b ? p.K : p.N, p.b_step)) return "a row of b does not start on 16 bytes";
    return refuse_output(y, p, epilogue);
}

size_t matmul_sm90_workspace(const MatmulChoice& choice, const MatmulProblem& p, bool with_dbias) {
    const MatmulBlock block = block_of(choice.design);
    const size_t tiles = size_t(p.batch) * tiles_of(p.M, block.M * choice.cluster) * tiles_of(p.N, block.N);
    const size_t turnstiles = choice.in_parts() ? tiles * size_t(choice.cluster) * kConsumers : 0;
    const size_t sums = with_dbias ? partial_sums_workspace(tiles_of(p.M, 64), p.N) : 0;
    return std::max(turnstiles, sums);
}

template <class Out>
void matmul_sm90(const Cuda& cuda, const MatmulChoice& choice, Out* y, const bf16* a, const bf16* b,
                 const MatmulProblem& p, const MatmulEpilogue<Out>& epilogue, float* workspace) {
    switch (choice.design) {
        case MatmulDesign::kCooperative128x256:
            return start_tile<Cooperative128x256>(cuda, choice, y, a, b, p, epilogue, workspace);
        case MatmulDesign::kPingPong128x192:
            if constexpr (std::is_same_v<Out, bf16>)
                if (epilogue.dbias == nullptr)
                    return start_tile<PingPong128x192>(cuda, choice, y, a, b, p, epilogue, workspace);
            break;
        case MatmulDesign::kPingPong128x160:
            return start_tile<PingPong128x160>(cuda, choice, y, a, b, p, epilogue, workspace);
        case MatmulDesign::kPingPong64x256:
            return start_tile<PingPong64x256>(cuda, choice, y, a, b, p, epilogue, workspace);
    }
    throw std::invalid_argument("matmul_sm90: 128x192 has no registers left for float results or column sums");
}

#define LLMCORE_MATMUL_SM90(Out)                                                                                      \
    template const char* matmul_sm90_refusal(const Out*, const bf16*, const bf16*, const MatmulProblem&,              \
                                             const MatmulEpilogue<Out>&);                                             \
    template void matmul_sm90(const Cuda&, const MatmulChoice&, Out*, const bf16*, const bf16*, const MatmulProblem&, \
                              const MatmulEpilogue<Out>&, float*);
LLMCORE_MATMUL_SM90(bf16)
LLMCORE_MATMUL_SM90(float)

}  // namespace llmcore
