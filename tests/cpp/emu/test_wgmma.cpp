// wgmma against the layouts of the PTX manual (ISA 9.7.15.5, "Register Fragments and Shared Memory Matrix Layouts"):
// the tests place every element where the canonical layout has it and compare with a product in double.
#include <memory>
#include <utility>

#include "bf16.h"
#include "check.h"
#include "cuda/arch/mbarrier.cuh"
#include "cuda/arch/wgmma.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"

using namespace llmcore;

namespace {

// A tile of `rows` (of M or N) by 64 k, in the order in which TMA would write it with this swizzle. `width` is the
// swizzle in elements: K-major tiles are columns of boxes [rows][width] of k; MN-major ones boxes [64 k][width] of
// rows. Width 8 is none: the table "Canonical Layouts" of section 9.7.15.5.1.2.1.3 with T = 8 has the element at
// ((8, m), (8, 2k)) : ((8, SBO), (1, LBO)) K-major and ((8, 1, m), (8, k)) : ((1, 8, SBO), (8, LBO)) MN-major, where
// this test gives SBO 128 bytes and LBO the whole tile's rows of them.
uint32_t element_offset(int row, int k, int rows, int width, bool mn_major) {
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
void product_kernel(float* c, const uint16_t* a, const uint16_t* b, int width) {
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
}

template <int kN, bool kMnMajorA, bool kMnMajorB, bool kRegisters>
void check_product(int width) {
    std::unique_ptr<uint16_t[]> a(new uint16_t[64 * 64]), b(new uint16_t[kN * 64]);
    std::unique_ptr<float[]> c(new float[64 * kN]);
    for (int i = 0; i < 64 * 64; ++i) a[size_t(i)] = bf16_bits(std::floor(random_number() * 8));
    for (int i = 0; i < kN * 64; ++i) b[size_t(i)] = bf16_bits(std::floor(random_number() * 8));
    launch({1, 128, 8192 + (kN + 63) / 64 * 8192}, product_kernel<kN, kMnMajorA, kMnMajorB, kRegisters>, c.get(),
           a.get(), b.get(), width);
    for (int m = 0; m < 64; ++m)
        for (int n = 0; n < kN; ++n) {
            double sum = 0;  // exact: small integers
            for (int k = 0; k < 64; ++k) sum += bf16_value(a[size_t(m * 64 + k)]) * bf16_value(b[size_t(n * 64 + k)]);
            EXPECT(c[size_t(m * kN + n)] == sum);
        }
}

TEST(wgmma_multiplies_every_layout) {
    for (int width : {64, 32, 16, 8}) {
        check_product<8, false, false, false>(width);
        check_product<64, true, true, false>(width);
        check_product<256, false, true, false>(width);
        check_product<192, false, true, true>(width);
        check_product<256, true, false, false>(width);
    }
    for_every_policy([] { check_product<64, false, false, true>(64); });
}

// N = 8 (i + 1) for each i, in turns with B K-major and MN-major, A from shared memory and from registers.
template <int... kIndex>
void check_every_n(std::integer_sequence<int, kIndex...>) {
    (check_product<8 * (kIndex + 1), kIndex % 4 == 3, kIndex % 2 == 1, false>(64), ...);
    (check_product<8 * (kIndex + 1), false, kIndex % 2 == 0, true>(64), ...);
}

TEST(wgmma_multiplies_every_n) {
    check_every_n(std::make_integer_sequence<int, 32>{});
}

enum class Misuse { kTouched, kExit, kBaseOffset, kNoSwizzle, kRegisters, kOddCount };

void misuse_kernel(Misuse misuse) {
    uint32_t shared = shared_address(shared_memory<char>());
    uint64_t b = ptx::operand(shared + (misuse == Misuse::kBaseOffset ? 128 : 0), 16, 1024);
    if (misuse == Misuse::kNoSwizzle) b = (b & ~(uint64_t(3) << 62)) | uint64_t(1) << 49;
    if (misuse == Misuse::kRegisters) ptx::set_max_registers_up<240>();
    if (misuse == Misuse::kOddCount) ptx::set_max_registers_up<100>();
    if (misuse == Misuse::kRegisters || threadIdx.x >= 128) return;
    float d[32] = {};
    ptx::wgmma_fence();
    ptx::wgmma<64>(d, ptx::operand(shared, 16, 1024), b, true);
    ptx::wgmma_commit();
    if (misuse == Misuse::kTouched) d[3] = 1;
    if (misuse == Misuse::kExit) return;
    ptx::wgmma_wait<0>();
}

void expect_misuse(Misuse misuse, const std::string& kind, const std::string& part) {
    expect_error(kind, part, [&] { launch({1, 384, 16384}, misuse_kernel, misuse); });
}

TEST(misused_wgmma_is_refused) {
    expect_misuse(Misuse::kTouched, "wgmma", "an accumulator was changed while a wgmma on it was in flight");
    expect_misuse(Misuse::kExit, "wgmma", "the thread exits with a wgmma in flight");
    expect_misuse(Misuse::kBaseOffset, "wgmma", "not on a repeat of its swizzle");
    expect_misuse(Misuse::kNoSwizzle, "wgmma", "without a swizzle has a base offset");
    expect_misuse(Misuse::kRegisters, "setmaxnreg", "ask for 92160 registers; there are 65536");
    expect_misuse(Misuse::kOddCount, "setmaxnreg", "multiple of 8 in 24..256, got 100");
}

}  // namespace
