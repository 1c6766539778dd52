// The float epilogues of csrc/cuda/matmul_sm90.cu, for whole sums and for parts of K. In order: from registers to
// memory, where four lanes' pairs are 32 bytes of a row, one part after another through a turnstile. In any order: by
// TMA, which adds where the memory is, box by box through shared memory, while the next box and the next piece are
// computed.
#pragma once

#include "cuda/activation_math.cuh"
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/global.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/matmul_epilogue.cuh"
#include "cuda/matmul_sm90_schedule.cuh"
#include "cuda/matmul_sm90_store.cuh"

namespace llmcore {

struct FloatOutput {
    CUtensorMap y;  // boxes of Tile::kBoxColumns / 2 x 64, if parts are added in any order
    TileEpilogue<float> epilogue;
    uint32_t* turnstiles;  // two for each tile, zero at the start; null unless parts of K wait for each other
    bool in_any_order;
    bool whole_pairs;  // row_step and every address allow two elements at once
};

// ---------------------------------------------------------------------------------------------------------------------
// two columns of a row

struct alignas(8) FloatPair {
    float value[2];
};

LLMCORE_DEVICE FloatPair load_pair(const float* from, int count, bool whole) {
    if (whole) return *reinterpret_cast<const FloatPair*>(from);
    return {{from[0], count > 1 ? from[1] : 0.0f}};
}

LLMCORE_DEVICE void store_pair(float* to, const FloatPair& pair, int count, bool whole) {
    if (whole) {
        *reinterpret_cast<FloatPair*>(to) = pair;
    } else {
        to[0] = pair.value[0];
        if (count > 1) to[1] = pair.value[1];
    }
}

LLMCORE_DEVICE FloatPair sum_of(const FloatPair& a, const FloatPair& b) {
    return {{a.value[0] + b.value[0], a.value[1] + b.value[1]}};
}

// `adds`: to what stands in y.
LLMCORE_DEVICE void finish_pair(const FloatOutput& output, int matrix, int row, int column, FloatPair pair, bool adds) {
    const TileEpilogue<float>& e = output.epilogue;
    if (row >= e.M || column >= e.N) return;
    const int count = e.N - column;
    const bool whole = output.whole_pairs && count > 1;
    const size_t at = (size_t(matrix) * size_t(e.M) + size_t(row)) * size_t(e.row_step) + size_t(column);
    if (e.fused.bias != nullptr) pair = sum_of(pair, load_pair(e.fused.bias + column, count, whole));
    if (e.fused.pre_activation != nullptr) store_pair(e.fused.pre_activation + at, pair, count, whole);
    if (e.fused.activation != Activation::kNone) {
        pair.value[0] = activate(e.fused.activation, pair.value[0]);
        pair.value[1] = activate(e.fused.activation, pair.value[1]);
    }
    if (e.fused.residual != nullptr) pair = sum_of(pair, load_pair(e.fused.residual + at, count, whole));
    if (adds) pair = sum_of(pair, load_pair(e.y + at, count, whole));
    store_pair(e.y + at, pair, count, whole);
}

// ---------------------------------------------------------------------------------------------------------------------
// tiles

template <class Tile>
class FloatStore {
  public:
    LLMCORE_DEVICE FloatStore(const FloatOutput& output, const HopperShared<Tile>& shared, int consumer)
        : output_(output), shared_(shared), consumer_(consumer), speaks_(threadIdx.x % kWarpgroup == 0) {}

    LLMCORE_DEVICE void begin(const Schedule<true>&, int) {}

    LLMCORE_DEVICE void finish(const HopperSums<Tile>& sums, const Schedule<true>& schedule, int piece) {
        const TileWork work = schedule.at(piece);
        if (output_.in_any_order)
            add_boxes(sums, work);
        else
            add_in_turn(sums, work);
    }

    // Before the kernel ends.
    LLMCORE_DEVICE void end() {
        if (output_.in_any_order && speaks_) ptx::bulk_wait_read<0>();
    }

  private:
    // -----------------------------------------------------------------------------------------------------------------
    // in order

    LLMCORE_DEVICE void add_in_turn(const HopperSums<Tile>& sums, const TileWork& work) {
        constexpr int kAcross = Tile::kBlockN / 16;
        wait_for_turn(work);
        const bool adds = output_.epilogue.accumulate || work.first_step > 0;
#pragma unroll 1
        for (int group = 0; group < Tile::kParts * kAcross; ++group) {
            SixteenColumns columns;
            take_sixteen<Tile>(columns, sums, group);
            const int part = Tile::first_part(consumer_) + group / kAcross;
            const int row = work.m * Tile::kBlockM + part * 64 + sums_row();
            const int column = work.n * Tile::kBlockN + group % kAcross * 16 + sums_column();
#pragma unroll
            for (int i = 0; i < 4; ++i)
                finish_pair(output_, work.matrix, row + i % 2 * 8, column + i / 2 * 8,
                            {{columns.value[2 * i], columns.value[2 * i + 1]}}, adds);
        }
        pass_turn(work);
    }

    LLMCORE_DEVICE uint32_t* turnstile(const TileWork& work) const {
        return output_.turnstiles + size_t(work.turnstile) * kConsumers + (Tile::kPingPong ? 0 : consumer_);
    }

    // A turnstile counts the steps of K that its rows of the tile hold.
    LLMCORE_DEVICE void wait_for_turn(const TileWork& work) const {
        if (output_.turnstiles == nullptr) return;
        if (speaks_)
            while (ptx::load_acquire(turnstile(work)) != uint32_t(work.first_step)) {
            }
        consumer_sync(consumer_);
    }

    LLMCORE_DEVICE void pass_turn(const TileWork& work) const {
        if (output_.turnstiles == nullptr) return;
        consumer_sync(consumer_);
        if (speaks_) ptx::add_release(turnstile(work), uint32_t(work.steps));
    }

    // -----------------------------------------------------------------------------------------------------------------
    // in any order: a consumer's two boxes in turn, as floats half as wide as for bf16

    static constexpr int kBoxColumns = Tile::kBoxColumns / 2, kBoxesAcross = Tile::kBlockN / kBoxColumns;
    static_assert(Tile::kParts * kBoxesAcross % 2 == 0, "every piece begins with the first box");

    LLMCORE_DEVICE void add_boxes(const HopperSums<Tile>& sums, const TileWork& work) {
        constexpr int kSixteens = kBoxColumns / 16;
#pragma unroll 1
        for (int box = 0; box < Tile::kParts * kBoxesAcross; ++box) {
            if (speaks_) ptx::bulk_wait_read<1>();  // the addition before the last one had this box
            consumer_sync(consumer_);
#pragma unroll 1
            for (int i = 0; i < kSixteens; ++i) {
                SixteenColumns columns;
                take_sixteen<Tile>(columns, sums, box * kSixteens + i);
                write_sixteen_floats(columns, box % 2, i * 16);
            }
            ptx::fence_proxy_async();
            consumer_sync(consumer_);
            if (!speaks_) continue;
            const int part = Tile::first_part(consumer_) + box / kBoxesAcross;
            ptx::tma_reduce_add(&output_.y, shared_.box(consumer_, box % 2),
                                {work.n * Tile::kBlockN + box % kBoxesAcross * kBoxColumns,
                                 work.m * Tile::kBlockM + part * 64, work.matrix});
            ptx::bulk_commit();
        }
    }

    // Lines of kBoxColumns floats, in pieces of four, swizzled by the number of the 128 bytes that they lie in.
    LLMCORE_DEVICE void write_sixteen_floats(const SixteenColumns& columns, int turn, int column0) const {
        constexpr int kPieces = kBoxColumns / 4;
        const int row = sums_row(), swizzle = row * kPieces / 8 % kPieces;  // alike eight rows below
        char* const box = shared_memory<char>() + Tile::kBoxesAt + (consumer_ * 2 + turn) * Tile::kBoxBytes;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int column = column0 + i / 2 * 8 + sums_column(), piece = column / 4 ^ swizzle;
            char* const to = box + (row + i % 2 * 8) * kBoxColumns * 4 + piece * 16 + column % 4 * 4;
            *reinterpret_cast<FloatPair*>(to) = {{columns.value[2 * i], columns.value[2 * i + 1]}};
        }
    }

    const FloatOutput& output_;
    HopperShared<Tile> shared_;
    int consumer_;
    bool speaks_;
};

}  // namespace llmcore
