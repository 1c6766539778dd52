// wgmma against the layouts of the PTX manual (ISA 9.7.15.5, "Register Fragments and Shared Memory Matrix Layouts"):
// the tests place every element where the canonical layout has it and compare with a product in double.
#include <memory>
#include <utility>

#include "bf16.h"
#include "check.h"
#include "cuda/launch.cuh"
#include "wgmma_product_kernel.cuh"

using namespace llmcore;

namespace {

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
