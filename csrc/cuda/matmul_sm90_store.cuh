// The bf16 epilogue of csrc/cuda/matmul_sm90.cu: y = residual + activation(sums + bias), or y = sums * activation'(..)
// with its column sums, box by box through shared memory, stored by TMA while the next box, and the next tile, are
// computed.
//
// Either consumer has two boxes of 64 rows, in the layout that stmatrix writes and TMA reads without bank conflicts. A
// tensor that the epilogue reads, too, comes by TMA into the very box which its result will leave in: the next one's is
// under way while this one's is computed. With a pre-activation to store, results leave through the first box and
// pre-activations through the second.
#pragma once

#include "cuda/activation_math.cuh"
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/float.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/matmul_sm90_schedule.cuh"
#include "cuda/matmul_sm90_sums.cuh"
#include "cuda/warp.cuh"

namespace llmcore {

// What is read beside the sums, if anything is, and what for.
enum class Beside { kNothing, kAdd, kSlope };

struct HopperOutput {
    CUtensorMap y, pre_activation, beside;  // boxes of Tile::kBoxColumns x 64
    const bf16* bias;                       // (N), may be null
    Activation activation;
    bool keeps_pre_activation;
    Beside reads;
    float* column_sums;  // (row blocks of 64, N), may be null: sums over each block's rows
    int M, N;
};

// The threads of the calling consumer.
LLMCORE_DEVICE void consumer_sync(int consumer) {
    if (consumer == 0)
        ptx::bar_sync(1, kWarpgroup);
    else
        ptx::bar_sync(2, kWarpgroup);
}

// ---------------------------------------------------------------------------------------------------------------------
// sixteen columns

LLMCORE_DEVICE void add_bias(SixteenColumns& columns, const bf16* bias, int column, int N) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int at = column + i / 2 * 8 + i % 2;
        const float value = at < N ? to_float(bias[at]) : 0.0f;
        columns.value[i / 2 * 4 + i % 2] += value;
        columns.value[i / 2 * 4 + i % 2 + 2] += value;
    }
}

// The lower bf16 of a pair, or the upper one.
LLMCORE_DEVICE float half_of(uint32_t pair, int half) {
    const uint32_t bits = half == 0 ? pair << 16 : pair & 0xffff0000u;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

LLMCORE_DEVICE void write_sixteen(uint32_t row_address, const SixteenColumns& columns) {
    uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) packed[i] = ptx::pack_bf16(columns.value[2 * i], columns.value[2 * i + 1]);
    ptx::stmatrix<4>(row_address, packed);
}

// From sums to results; `beside` are the pairs of bf16 that lie beside them.
LLMCORE_DEVICE void finish_sixteen(SixteenColumns& columns, const uint32_t (&beside)[4], const HopperOutput& output) {
    if (output.activation != Activation::kNone && output.reads != Beside::kSlope) {
#pragma unroll
        for (int i = 0; i < 8; ++i) columns.value[i] = activate(output.activation, columns.value[i]);
    }
    if (output.reads == Beside::kAdd) {
#pragma unroll
        for (int i = 0; i < 8; ++i) columns.value[i] += half_of(beside[i / 2], i % 2);
    }
    if (output.reads == Beside::kSlope) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            columns.value[i] *= activation_slope(output.activation, half_of(beside[i / 2], i % 2));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// boxes

// One consumer's two boxes, which it uses in turn from tile to tile. `loads` counts what has been loaded into them.
template <class Tile>
class BoxStore {
  public:
    LLMCORE_DEVICE BoxStore(const HopperOutput& output, const HopperShared<Tile>& shared, int consumer)
        : output_(output), shared_(shared), consumer_(consumer), speaks_(threadIdx.x % kWarpgroup == 0) {}

    // Before a tile's main loop: what its first box reads comes in the meantime.
    LLMCORE_DEVICE void begin(const Schedule<false>& schedule, int piece) {
        if (speaks_ && output_.reads != Beside::kNothing) load(0, schedule.at(piece));
    }

    // The tile is looked up once more: registers are scarce while products are summed.
    LLMCORE_DEVICE void finish(const HopperSums<Tile>& sums, const Schedule<false>& schedule, int piece) {
        const TileWork work = schedule.at(piece);
#pragma unroll 1
        for (int box = 0; box < Tile::kBoxes; ++box) {
            make_room(box, work);
            consumer_sync(consumer_);
            compute(sums, box, work);
            ptx::fence_proxy_async();
            consumer_sync(consumer_);
            if (speaks_) store(box, work);
            if (sums_columns()) store_column_sums(box, work);
        }
    }

    // Before the kernel ends.
    LLMCORE_DEVICE void end() {
        if (speaks_) ptx::bulk_wait_read<0>();
    }

  private:
    LLMCORE_DEVICE bool sums_columns() const { return Tile::kSumsColumns && output_.column_sums != nullptr; }
    LLMCORE_DEVICE int turn_of(int box) const { return output_.keeps_pre_activation ? 0 : box % 2; }
    LLMCORE_DEVICE int row_of(int box, const TileWork& work) const {
        return work.m * Tile::kBlockM + (Tile::first_part(consumer_) + box / Tile::kBoxesAcross) * 64;
    }
    LLMCORE_DEVICE static int column_of(int box, const TileWork& work) {
        return work.n * Tile::kBlockN + box % Tile::kBoxesAcross * Tile::kBoxColumns;
    }

    // Once all stores have been read, so that either box may be written.
    LLMCORE_DEVICE void load(int box, const TileWork& work) {
        ptx::bulk_wait_read<0>();
        const uint32_t loaded = shared_.box_loaded(consumer_, turn_of(box));
        ptx::mbarrier_arrive_expect(loaded, Tile::kBoxBytes);
        ptx::tma_load(shared_.box(consumer_, turn_of(box)), &output_.beside, loaded,
                      {column_of(box, work), row_of(box, work), work.matrix});
    }

    LLMCORE_DEVICE void make_room(int box, const TileWork& work) {
        if (!speaks_) return;
        if (output_.reads != Beside::kNothing) {
            // The first box's load was begun with the tile; with one box for all results, the others' start only now.
            const int next = output_.keeps_pre_activation ? box : box + 1;
            if (next > 0 && next < Tile::kBoxes) load(next, work);
        } else if (output_.keeps_pre_activation) {
            ptx::bulk_wait_read<0>();
        } else {
            ptx::bulk_wait_read<1>();  // the store before the last one had this box
        }
    }

    LLMCORE_DEVICE void compute(const HopperSums<Tile>& sums, int box, const TileWork& work) {
        constexpr int kSixteens = Tile::kBoxColumns / 16;
        const int turn = turn_of(box), column0 = column_of(box, work);
        if (output_.reads != Beside::kNothing) {
            ptx::mbarrier_wait(shared_.box_loaded(consumer_, turn), loaded_parity_ >> turn & 1);
            loaded_parity_ ^= 1u << turn;
        }
#pragma unroll 1
        for (int i = 0; i < kSixteens; ++i) {
            SixteenColumns columns;
            uint32_t beside[4] = {};
            take_sixteen<Tile>(columns, sums, box * kSixteens + i);
            if (output_.bias != nullptr) add_bias(columns, output_.bias, column0 + i * 16 + sums_column(), output_.N);
            if (output_.keeps_pre_activation) write_sixteen(lane_address(1, i), columns);
            if (output_.reads != Beside::kNothing) ptx::ldmatrix<4>(beside, lane_address(turn, i));
            finish_sixteen(columns, beside, output_);
            write_sixteen(lane_address(turn, i), columns);
            if (sums_columns()) keep_column_sums(columns, i);
        }
    }

    // [warp][column] of a box: the sums over each warp's 16 rows.
    LLMCORE_DEVICE float* warp_sums() const {
        return reinterpret_cast<float*>(shared_memory<char>() + Tile::kColumnSumsAt +
                                        consumer_ * Tile::kColumnSumsBytes);
    }

    // Rows outside the problem are zero: products of zeros, times a slope.
    LLMCORE_DEVICE void keep_column_sums(const SixteenColumns& columns, int sixteen) const {
        const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) % kWarpgroup / 32;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float sum = columns.value[i / 2 * 4 + i % 2] + columns.value[i / 2 * 4 + i % 2 + 2];
#pragma unroll
            for (int bits = 4; bits < 32; bits *= 2) sum += __shfl_xor_sync(kAllLanes, sum, bits);
            const int column = sixteen * 16 + i / 2 * 8 + lane * 2 + i % 2;
            if (lane < 4) warp_sums()[warp * Tile::kBoxColumns + column] = sum;
        }
    }

    // After a barrier, over the box's 64 rows.
    LLMCORE_DEVICE void store_column_sums(int box, const TileWork& work) const {
        const int own = int(threadIdx.x) % kWarpgroup, column = column_of(box, work) + own, row = row_of(box, work);
        if (own >= Tile::kBoxColumns || column >= output_.N || row >= output_.M) return;
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < 4; ++warp) sum += warp_sums()[warp * Tile::kBoxColumns + own];
        output_.column_sums[size_t(row / 64) * size_t(output_.N) + size_t(column)] = sum;
    }

    // The 16 bytes of a row of the box that this lane names to stmatrix: of its warp's 16 rows, the first eight columns
    // of sixteen or the last. Pieces are swizzled as TMA does, by the number of the 128 bytes that they lie in: an XOR,
    // as is the way from one sixteen to the next.
    LLMCORE_DEVICE uint32_t lane_address(int turn, int sixteen) const {
        constexpr int kPieces = Tile::kBoxColumns / 8;
        const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) % kWarpgroup / 32;
        const int row = warp * 16 + lane % 16, swizzle = row * kPieces / 8 % kPieces;
        const uint32_t first = shared_.box(consumer_, 0) + uint32_t(row * Tile::kBoxColumns * 2);
        return ((first + uint32_t((lane / 16 ^ swizzle) << 4)) ^ uint32_t(sixteen << 5)) +
               uint32_t(turn * Tile::kBoxBytes);
    }

    LLMCORE_DEVICE void store(int box, const TileWork& work) {
        const int column = column_of(box, work), row = row_of(box, work);
        ptx::tma_store(&output_.y, shared_.box(consumer_, turn_of(box)), {column, row, work.matrix});
        if (output_.keeps_pre_activation)
            ptx::tma_store(&output_.pre_activation, shared_.box(consumer_, 1), {column, row, work.matrix});
        ptx::bulk_commit();
    }

    const HopperOutput& output_;
    HopperShared<Tile> shared_;
    int consumer_;
    bool speaks_;
    uint32_t loaded_parity_ = 0;  // of either box's barrier, one bit each
};

}  // namespace llmcore
