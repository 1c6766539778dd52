// The float epilogue of csrc/cuda/matmul_sm90.cu: from registers to memory, where four lanes' pairs are 32 bytes of a
// row; and the turnstile by which the parts of a split K add to one tile in their order.
#pragma once

#include "cuda/activation_math.cuh"
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/global.cuh"
#include "cuda/matmul_epilogue.cuh"
#include "cuda/matmul_sm90_schedule.cuh"
#include "cuda/matmul_sm90_store.cuh"

namespace llmcore {

struct FloatOutput {
    TileEpilogue<float> epilogue;
    uint32_t* turnstiles;  // two for each tile, zero at the start; null if K is not split
    bool whole_pairs;      // row_step and every address allow two elements at once
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
    LLMCORE_DEVICE FloatStore(const FloatOutput& output, const HopperShared<Tile>&, int consumer)
        : output_(output), consumer_(consumer) {}

    LLMCORE_DEVICE void begin(const Schedule&, int) {}
    LLMCORE_DEVICE void end() {}

    LLMCORE_DEVICE void finish(const HopperSums<Tile>& sums, const Schedule& schedule, int unit) {
        const TileWork work = schedule.at(unit);
        constexpr int kAcross = Tile::kBlockN / 16;
        wait_for_turn(work);
        const bool adds = output_.epilogue.accumulate || work.split > 0;
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

  private:
    LLMCORE_DEVICE uint32_t* turnstile(const TileWork& work) const {
        return output_.turnstiles + size_t(work.turnstile) * kConsumers + (Tile::kPingPong ? 0 : consumer_);
    }

    // A turnstile counts the parts of K that its rows of the tile hold.
    LLMCORE_DEVICE void wait_for_turn(const TileWork& work) const {
        if (output_.turnstiles == nullptr) return;
        if (threadIdx.x % kWarpgroup == 0)
            while (ptx::load_acquire(turnstile(work)) != uint32_t(work.split)) {
            }
        consumer_sync(consumer_);
    }

    LLMCORE_DEVICE void pass_turn(const TileWork& work) const {
        if (output_.turnstiles == nullptr) return;
        consumer_sync(consumer_);
        if (threadIdx.x % kWarpgroup == 0) ptx::add_release(turnstile(work), 1);
    }

    const FloatOutput& output_;
    int consumer_;
};

}  // namespace llmcore
