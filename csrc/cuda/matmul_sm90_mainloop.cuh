// The main loop of csrc/cuda/matmul_sm90.cu: TMA brings both operands' tiles into a ring of stages, wgmma multiplies
// them.
//
// In a cluster of two, the blocks' tiles stand below each other and share the columns' operand: each block loads half
// of it and sends it to both. So full[s] counts the bytes that come from both, and empty[s], which lets a block load,
// waits for the readers of both.
#pragma once

#include "cuda/arch/cluster.cuh"
#include "cuda/arch/tma.cuh"
#include "cuda/arch/wgmma.cuh"
#include "cuda/matmul_sm90_design.cuh"
#include "cuda/matmul_sm90_schedule.cuh"

namespace llmcore {

struct HopperOperands {
    CUtensorMap a, b;
    bool shared_a, shared_b;  // one matrix for all of a batch
};

// ---------------------------------------------------------------------------------------------------------------------
// producer

// kRows rows at row0 by 64 k at k0: K-major in one box, MN-major in boxes of 64 rows.
template <Major kMajor, int kRows>
LLMCORE_DEVICE void load_rows(uint32_t to, const CUtensorMap* map, uint32_t full, int row0, int k0, int matrix) {
    if constexpr (kMajor == Major::kK) {
        ptx::tma_load(to, map, full, {k0, row0, matrix});
    } else {
#pragma unroll
        for (int chunk = 0; chunk * 64 < kRows; ++chunk)
            ptx::tma_load(to + uint32_t(chunk * kChunkBytes), map, full, {row0 + chunk * 64, k0, matrix});
    }
}

// This block's half of the same, for both blocks of the cluster: half of the rows, or of every box's k.
template <Major kMajor, int kRows>
LLMCORE_DEVICE void send_half(uint32_t to, const CUtensorMap* map, uint32_t full, int row0, int k0, int matrix) {
    constexpr uint16_t kBoth = 0b11;
    const int rank = int(ptx::cluster_rank());
    if constexpr (kMajor == Major::kK) {
        const int half = rank * (kRows / 2);
        ptx::tma_load_multicast(to + uint32_t(half * 128), map, full, {k0, row0 + half, matrix}, kBoth);
    } else {
        const int half = rank * (kBlockK / 2);
#pragma unroll
        for (int chunk = 0; chunk * 64 < kRows; ++chunk)
            ptx::tma_load_multicast(to + uint32_t(chunk * kChunkBytes + half * 128), map, full,
                                    {row0 + chunk * 64, k0 + half, matrix}, kBoth);
    }
}

// By one thread: all steps of all this block's pieces, as fast as stages become free.
template <class Tile, Major kMajorA, Major kMajorB, class Pieces>
LLMCORE_DEVICE void produce(const HopperShared<Tile>& shared, const HopperOperands& operands, const Pieces& schedule) {
    // Boxes count whole, whatever of them lies outside the operands.
    constexpr int kBytesB = kMajorB == Major::kK ? Tile::kBlockN * kBlockK * 2 : Tile::kChunksB * kChunkBytes;
    RingPlace<Tile> place;
#pragma unroll 1
    for (int piece = schedule.first(); schedule.has(piece); piece += schedule.stride()) {
        const TileWork work = schedule.at(piece);
        const int row0 = work.m * Tile::kBlockM, column0 = work.n * Tile::kBlockN;
        const int matrix_a = operands.shared_a ? 0 : work.matrix, matrix_b = operands.shared_b ? 0 : work.matrix;
        const int end = (work.first_step + work.steps) * kBlockK;
#pragma unroll 1  // unrolled, it would not fit the producer's few registers
        for (int k0 = work.first_step * kBlockK; k0 < end; k0 += kBlockK) {
            const int stage = place.stage();
            const uint32_t full = shared.full(stage);
            ptx::mbarrier_wait(shared.empty(stage), place.parity() ^ 1);  // a fresh barrier lets the first pass
            ptx::mbarrier_arrive_expect(full, Tile::kBytesA + kBytesB);
            load_rows<kMajorA, Tile::kBlockM>(shared.a(stage), &operands.a, full, row0, k0, matrix_a);
            if (schedule.cluster == 1)
                load_rows<kMajorB, Tile::kBlockN>(shared.b(stage), &operands.b, full, column0, k0, matrix_b);
            else
                send_half<kMajorB, Tile::kBlockN>(shared.b(stage), &operands.b, full, column0, k0, matrix_b);
            place.next();
        }
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

// One thread speaks for a warpgroup: wgmma's wait covers what all its warps have read.
template <class Tile>
LLMCORE_DEVICE void release_stage(const HopperShared<Tile>& shared, int stage, int cluster) {
    const int thread = int(threadIdx.x) % kWarpgroup;
    if (thread < cluster) ptx::mbarrier_arrive_at<ptx::Scope::kBlock>(shared.empty(stage), uint32_t(thread));
}

// A warpgroup's sums over `steps` steps. One batch of wgmma is always in flight behind the one being issued, and a
// stage is released when the batch after its own has been issued.
template <class Tile, Major kMajorA, Major kMajorB>
LLMCORE_DEVICE void multiply(HopperSums<Tile>& sums, const HopperShared<Tile>& shared, RingPlace<Tile>& place,
                             int first_chunk, int steps, int cluster) {
    int previous = 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const int stage = place.stage();
        ptx::mbarrier_wait(shared.full(stage), place.parity());
        const uint32_t a = shared.a(stage) + uint32_t(first_chunk * kChunkBytes), b = shared.b(stage);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kBlockK; k += 16)
#pragma unroll
            for (int part = 0; part < Tile::kParts; ++part)
                ptx::wgmma<Tile::kBlockN, kMajorA == Major::kMn, kMajorB == Major::kMn>(
                    sums[part], operand_at<kMajorA>(a + uint32_t(part * kChunkBytes), k), operand_at<kMajorB>(b, k),
                    step > 0 || k > 0);
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();
        if (step > 0) release_stage(shared, previous, cluster);
        previous = stage;
        place.next();
    }
    ptx::wgmma_wait<0>();
    release_stage(shared, previous, cluster);
}

}  // namespace llmcore
