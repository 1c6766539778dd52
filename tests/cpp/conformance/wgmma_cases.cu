// wgmma: widths, majors and swizzles.
#include "../emu/wgmma_product_kernel.cuh"
#include "case.h"

namespace conformance {
namespace {

using namespace llmcore;

// Input: A (64, 64) and B (N, 64) in bf16.
void fill(Random& random, Bytes& input) {
    for (size_t i = 0; i < input.size(); i += 2) {
        float value = random.number();
        uint32_t bits;
        memcpy(&bits, &value, 4);
        bits >>= 16;
        memcpy(&input[i], &bits, 2);
    }
}

template <int kN, bool kMnMajorA, bool kMnMajorB, bool kRegisters, int kWidth>
void start(unsigned char* out, const unsigned char* in) {
    const auto* a = reinterpret_cast<const uint16_t*>(in);
    launch({1, 128, 8192 + (kN + 63) / 64 * 8192}, product_kernel<kN, kMnMajorA, kMnMajorB, kRegisters>,
           reinterpret_cast<float*>(out), a, a + 64 * 64, kWidth);
}

template <int kN, bool kMnMajorA, bool kMnMajorB, bool kRegisters, int kWidth>
void add() {
    std::string name = "wgmma n" + std::to_string(kN);
    name += kRegisters ? ", A in registers" : kMnMajorA ? ", A MN-major" : ", A K-major";
    name += kMnMajorB ? ", B MN-major" : ", B K-major";
    name += kWidth == 8 ? ", no swizzle" : ", " + std::to_string(kWidth * 2) + "-byte swizzle";
    all_cases().push_back(
        {name, 90, 1e-5, (64 + kN) * 128, 64 * kN * 4, fill, start<kN, kMnMajorA, kMnMajorB, kRegisters, kWidth>});
}

template <int kN, bool kMnMajorA, bool kMnMajorB, bool kRegisters>
void add_every_swizzle() {
    add<kN, kMnMajorA, kMnMajorB, kRegisters, 64>();
    add<kN, kMnMajorA, kMnMajorB, kRegisters, 32>();
    add<kN, kMnMajorA, kMnMajorB, kRegisters, 16>();
    add<kN, kMnMajorA, kMnMajorB, kRegisters, 8>();
}

}  // namespace

void add_wgmma_cases() {
    add_every_swizzle<8, false, false, false>();
    add_every_swizzle<64, true, true, false>();
    add_every_swizzle<128, false, true, false>();
    add_every_swizzle<192, false, true, true>();
    add_every_swizzle<256, true, false, false>();
    add_every_swizzle<96, false, false, true>();
    add<160, false, true, false, 64>();
    add<208, false, false, false, 64>();
    add<256, false, true, true, 64>();
}

}  // namespace conformance
