// The designs of csrc/cuda/matmul_sm90.cu: tiles, who multiplies what, and where it lies in shared memory.
#pragma once

#include "cuda/arch/mbarrier.cuh"
#include "cuda/matmul_choice.h"
#include "cuda/matmul_tile.cuh"

namespace llmcore {

constexpr int kHopperThreads = 384, kWarpgroup = 128;  // one warpgroup produces, two consume
constexpr int kConsumers = 2;
// Of 65536, for the producer's warpgroup and each of the others.
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
constexpr int kChunkBytes = 64 * kBlockK * 2;  // 64 rows by 64 k of an operand, of either major

enum class Teamwork { kCooperative, kPingPong };

template <Teamwork kTeamwork_, int kBlockM_, int kBlockN_, int kStages_>
struct HopperTile {
    static constexpr bool kPingPong = kTeamwork_ == Teamwork::kPingPong;
    static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_, kStages = kStages_;

    // A warpgroup multiplies 64 rows at once, `kParts` times: the tile's rows, or its half of them.
    static constexpr int kParts = kBlockM / 64 / (kPingPong ? 1 : kConsumers);
    static constexpr int kReaders = kPingPong ? 1 : kConsumers;  // warpgroups that read a stage
    LLMCORE_DEVICE static int first_part(int consumer) { return kPingPong ? 0 : consumer * kParts; }

    // A stage: op(a)'s tile, then op(b)^T's, in whole chunks.
    static constexpr int kBytesA = kBlockM * kBlockK * 2, kChunksB = (kBlockN + 63) / 64;
    static constexpr int kStageBytes = kBytesA + kChunksB * kChunkBytes;

    static constexpr bool kSumsColumns = kParts * kBlockN / 2 < 192;  // where registers are left for that

    // Results leave through two boxes of 64 rows for either consumer.
    static constexpr int kBoxColumns = kBlockN % 64 == 0 ? 64 : 32, kBoxBytes = 64 * kBoxColumns * 2;
    static constexpr int kBoxesAcross = kBlockN / kBoxColumns, kBoxes = kParts * kBoxesAcross;
    static_assert(kBlockN % kBoxColumns == 0, "boxes do not reach into the next tile");
    static_assert(kBoxes % 2 == 0, "every tile begins with the first box");

    static constexpr int kBoxesAt = kStages * kStageBytes;
    static constexpr int kColumnSumsAt = kBoxesAt + kConsumers * 2 * kBoxBytes;
    static constexpr int kColumnSumsBytes = 4 * kBoxColumns * 4;  // of four warps
    static constexpr int kBarriersAt = kColumnSumsAt + kConsumers * kColumnSumsBytes;
    static constexpr int kSharedBytes = kBarriersAt + (2 * kStages + 2 * kConsumers) * 8;
    static_assert(kSharedBytes <= 227 * 1024, "a block of compute capability 9.0 has 227 KB");
};

using Cooperative128x256 = HopperTile<Teamwork::kCooperative, 128, 256, 4>;
using PingPong128x192 = HopperTile<Teamwork::kPingPong, 128, 192, 4>;
using PingPong128x160 = HopperTile<Teamwork::kPingPong, 128, 160, 5>;
using PingPong64x256 = HopperTile<Teamwork::kPingPong, 64, 256, 4>;

// A warpgroup's sums: part, then registers as wgmma orders them.
template <class Tile>
using HopperSums = float[Tile::kParts][Tile::kBlockN / 2];

// Where things stand in a block's shared memory.
template <class Tile>
struct HopperShared {
    uint32_t address;

    LLMCORE_DEVICE uint32_t a(int stage) const { return address + uint32_t(stage * Tile::kStageBytes); }
    LLMCORE_DEVICE uint32_t b(int stage) const { return a(stage) + Tile::kBytesA; }
    // full: the stage has landed. empty: all that read it are done.
    LLMCORE_DEVICE uint32_t full(int stage) const { return address + uint32_t(Tile::kBarriersAt + stage * 8); }
    LLMCORE_DEVICE uint32_t empty(int stage) const { return full(stage) + Tile::kStages * 8; }

    LLMCORE_DEVICE uint32_t box(int consumer, int turn) const {
        return address + uint32_t(Tile::kBoxesAt + (consumer * 2 + turn) * Tile::kBoxBytes);
    }
    LLMCORE_DEVICE uint32_t box_loaded(int consumer, int turn) const {
        return address + uint32_t(Tile::kBarriersAt + (2 * Tile::kStages + consumer * 2 + turn) * 8);
    }
};

// A place in the ring of stages, counted through two rounds: phases of a stage's barriers alternate from one to the
// next.
template <class Tile>
struct RingPlace {
    int position = 0;

    LLMCORE_DEVICE uint32_t parity() const { return position >= Tile::kStages; }
    LLMCORE_DEVICE int stage() const { return position >= Tile::kStages ? position - Tile::kStages : position; }
    LLMCORE_DEVICE void next() { position = position + 1 == 2 * Tile::kStages ? 0 : position + 1; }
    LLMCORE_DEVICE void skip(int steps) { position = (position + steps) % (2 * Tile::kStages); }
};

}  // namespace llmcore
