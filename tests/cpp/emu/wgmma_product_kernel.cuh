// c (64, N) = a (64, 64) b (N, 64)^T by wgmma, with every element put where the PTX manual's canonical layouts have it:
// for the tests of the emulator and for the conformance file. Written from the manual (ISA 9.7.15.5.1.2, "Shared Memory
// Matrix Layout"), not from the emulator.
#pragma once

#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/wgmma.cuh"
#include "cuda/shared.cuh"

namespace llmcore {

// A tile of `rows` (of M or N) by 64 k, in the order in which TMA would write it with this swizzle. `width` is the
// swizzle in elements: K-major tiles are columns of boxes [rows][width] of k; MN-major ones boxes [64 k][width] of
// rows. Width 8 is none: the table "Canonical Layouts" of section 9.7.15.5.1.2.1.3 with T = 8 has the element at
// ((8, m), (8, 2k)) : ((8, SBO), (1, LBO)) K-major and ((8, 1, m), (8, k)) : ((1, 8, SBO), (8, LBO)) MN-major, where
// this test gives SBO 128 bytes and LBO the whole tile's rows of them.
LLMCORE_DEVICE uint32_t element_offset(int row, int k, int rows, int width, bool mn_major) {
    if (width == 8) {
        uint32_t blocks = uint32_t(row / 8 * 128 + k / 8 * rows * 16);
        return blocks + uint32_t(mn_major ? k % 8 * 16 + row % 8 * 2 : row % 8 * 16 + k % 8 * 2);
    }
    int line = mn_major ? k : row, inner = mn_major ? row : k, lines = mn_major ? 64 : rows;
    uint32_t offset = uint32_t((inner / width * lines + line) * width + inner % width) * 2;
    uint32_t mask = uint32_t(width) / 8 - 1;  // chunks of 16 bytes in a row, less one
    return offset ^ (offset / 128 & mask) * 16;
}

template <int kN, bool kMnMajorA, bool kMnMajorB, bool kRegisters>
__global__ void __launch_bounds__(128, 1) product_kernel(float* c, const uint16_t* a, const uint16_t* b, int width) {
#if LLMCORE_HAS_SM90A
    char* shared = shared_memory<char>();
    const auto swizzle = width == 8    ? ptx::OperandSwizzle::kNone
                         : width == 64 ? ptx::OperandSwizzle::k128
                         : width == 32 ? ptx::OperandSwizzle::k64
                                       : ptx::OperandSwizzle::k32;
    auto put = [&](char* tile, const uint16_t* source, int rows, bool mn_major) {
        for (int i = int(threadIdx.x); i < rows * 64; i += 128)
            memcpy(tile + element_offset(i / 64, i % 64, rows, width, mn_major), source + i, 2);
    };
    put(shared, a, 64, kMnMajorA);
    put(shared + 8192, b, kN, kMnMajorB);
    ptx::fence_proxy_async();
    __syncthreads();
    const uint32_t group = uint32_t(width) * 2 * 8;  // eight rows of the swizzle
    auto describe = [&](uint32_t tile, int rows, bool mn_major, int k) {
        if (width == 8) return ptx::operand(tile + uint32_t(k * 2 * rows * 16), uint32_t(rows * 16), 128, swizzle);
        // K-major: 32 bytes on inside the box, then the next box. MN-major: two groups of eight k on.
        uint32_t box = uint32_t((mn_major ? 64 : rows) * width * 2);
        uint32_t start = mn_major ? tile + uint32_t(k) * 2 * group
                                  : tile + uint32_t(k * 16 / width) * box + uint32_t(k * 16 % width) * 2;
        return ptx::operand(start, mn_major ? box : 16, group, swizzle);
    };
    const uint32_t tile_a = shared_address(shared), tile_b = tile_a + 8192;
    const int t = int(threadIdx.x), row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
    float d[kN / 2];
    ptx::wgmma_fence();
    for (int k = 0; k < 4; ++k) {
        uint64_t operand_b = describe(tile_b, kN, kMnMajorB, k);
        if constexpr (kRegisters) {
            uint32_t r[4];
            for (int i = 0; i < 4; ++i) {
                const uint16_t* pair = a + (row + i % 2 * 8) * 64 + k * 16 + column + i / 2 * 8;
                r[i] = pair[0] | uint32_t(pair[1]) << 16;
            }
            ptx::wgmma<kN, kMnMajorB>(d, r, operand_b, k > 0);
        } else {
            ptx::wgmma<kN, kMnMajorA, kMnMajorB>(d, describe(tile_a, 64, kMnMajorA, k), operand_b, k > 0);
        }
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    for (int i = 0; i < kN / 2; ++i) c[(row + i / 2 % 2 * 8) * kN + i / 4 * 8 + column + i % 2] = d[i];
#endif
}

}  // namespace llmcore
