// Collectives, matrix fragments, barriers.
#include "case.h"
#include "cuda/arch/barrier.cuh"
#include "cuda/arch/collective.cuh"
#include "cuda/arch/float.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/shared.cuh"
#include "cuda/warp.cuh"

namespace conformance {
namespace {

using namespace llmcore;

LLMCORE_DEVICE uint32_t word_of(const unsigned char* bytes, int index) {
    uint32_t word;
    memcpy(&word, bytes + index * 4, 4);
    return word;
}

LLMCORE_DEVICE void put_word(unsigned char* bytes, int index, uint32_t word) {
    memcpy(bytes + index * 4, &word, 4);
}

// Rows in an order of their own, so that each lane's address counts.
LLMCORE_DEVICE uint32_t row_address(uint32_t base, int lane) {
    return base + uint32_t((lane * 5 + 3) % 32) * 16;
}

template <int kCount, bool kTransposed>
__global__ void load_matrices(unsigned char* out, const unsigned char* in) {
    unsigned char* shared = shared_memory<unsigned char>();
    const int lane = int(threadIdx.x);
    for (int i = lane; i < 128; i += 32) put_word(shared, i, word_of(in, i));
    __syncwarp();
    uint32_t r[kCount];
    ptx::ldmatrix<kCount, kTransposed>(r, row_address(shared_address(shared), lane));
    for (int i = 0; i < kCount; ++i) put_word(out, i * 32 + lane, r[i]);
}

template <int kCount, bool kTransposed>
__global__ void store_matrices(unsigned char* out, const unsigned char* in) {
#if LLMCORE_HAS_SM90A
    unsigned char* shared = shared_memory<unsigned char>();
    const int lane = int(threadIdx.x);
    for (int i = lane; i < 128; i += 32) put_word(shared, i, 0);
    __syncwarp();
    uint32_t r[kCount];
    for (int i = 0; i < kCount; ++i) r[i] = word_of(in, i * 32 + lane);
    ptx::stmatrix<kCount, kTransposed>(row_address(shared_address(shared), lane), r);
    __syncwarp();
    for (int i = lane; i < 128; i += 32) put_word(out, i, word_of(shared, i));
#endif
}

enum class Type { kBf16, kFp16, kTf32 };

// Input: four words of A, two of B and four floats of D for each lane.
template <Type kType>
__global__ void multiply(unsigned char* out, const unsigned char* in) {
    const int lane = int(threadIdx.x);
    uint32_t a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; ++i) a[i] = word_of(in, lane * 10 + i);
    for (int i = 0; i < 2; ++i) b[i] = word_of(in, lane * 10 + 4 + i);
    memcpy(d, in + lane * 40 + 24, 16);
    if constexpr (kType == Type::kBf16) ptx::mma_bf16(d, a, b);
    if constexpr (kType == Type::kFp16) ptx::mma_fp16(d, a, b);
    if constexpr (kType == Type::kTf32) ptx::mma_tf32(d, a, b);
    memcpy(out + lane * 16, d, 16);
}

template <Type kType>
uint32_t encode_pair(Random& random) {
    uint32_t word = 0;
    for (int half = 0; half < 2; ++half) {
        float value = random.number();
        uint32_t bits;
        memcpy(&bits, &value, 4);
        if (kType == Type::kTf32) return bits;
        if (kType == Type::kBf16) bits >>= 16;
        if (kType ==
            Type::kFp16)  // of numbers that fp16 has exactly: exponent from bias 127 to 15, ten bits of mantissa
            bits = value == 0 ? 0 : (bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023);
        word |= bits << 16 * half;
    }
    return word;
}

template <Type kType>
void fill_fragments(Random& random, Bytes& input) {
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 10; ++i) {
            uint32_t word = encode_pair<kType>(random);
            float value = random.number();
            if (i >= 6) memcpy(&word, &value, 4);
            memcpy(&input[size_t(lane * 10 + i) * 4], &word, 4);
        }
}

__global__ void collectives(unsigned char* out, const unsigned char* in) {
    using ptx::Reduce;
    const int lane = int(threadIdx.x);
    const uint32_t value = word_of(in, lane), mask = lane % 2 ? 0xaaaaaaaau : 0x55555555u;
    int next = 0;
    auto give = [&](uint32_t word) { put_word(out, next++ * 32 + lane, word); };
    give(ptx::reduce_lanes<Reduce::kAdd>(mask, value));
    give(ptx::reduce_lanes<Reduce::kMin>(mask, value));
    give(ptx::reduce_lanes<Reduce::kMax>(mask, value));
    give(ptx::reduce_lanes<Reduce::kAnd>(mask, value));
    give(ptx::reduce_lanes<Reduce::kOr>(mask, value));
    give(ptx::reduce_lanes<Reduce::kXor>(mask, value));
    give(uint32_t(ptx::reduce_lanes<Reduce::kMin>(mask, int(value))));
    give(uint32_t(ptx::reduce_lanes<Reduce::kMax>(mask, int(value))));
    give(__ballot_sync(mask, value & 1));
    give(uint32_t(__any_sync(mask, (value & 63) == 0)));
    give(uint32_t(__all_sync(mask, (value & 63) != 0)));
    give(__shfl_up_sync(~0u, value, 5, 16));
    give(__shfl_down_sync(~0u, value, 3, 8));
    give(__shfl_xor_sync(~0u, value, 9, 32));
    give(__shfl_sync(~0u, value, 11, 4));
    uint32_t bits;
    const float number = float(int(value % 2048) - 1024) / 64, sum = warp_sum(number), largest = warp_max(number);
    memcpy(&bits, &sum, 4);
    give(bits);
    memcpy(&bits, &largest, 4);
    give(bits);
}

// 2^-8 to 2^8; hardware may be off by two units in the last place.
__global__ void powers_of_two(unsigned char* out, const unsigned char* in) {
    const uint32_t word = ptx::unhoisted(word_of(in, int(threadIdx.x)));
    const float x = float(int(word % 16000) - 8000) / 1000;
    const float y = ptx::exp2_approximate(x);
    memcpy(out + threadIdx.x * 4, &y, 4);
}

// Zero below the smallest normal number, infinity above the largest.
__global__ void edges_of_powers(unsigned char* out, const unsigned char*) {
    const float edges[] = {-INFINITY, -200.0f, -126.5f, 0.0f, 200.0f, INFINITY};
    for (int i = 0; i < 6; ++i) {
        const float y = ptx::exp2_approximate(edges[i]);
        memcpy(out + i * 4, &y, 4);
    }
}

__global__ void pairs_of_bf16(unsigned char* out, const unsigned char* in) {
    float low, high;  // any bits: numbers of every size, ties, infinities and what is no number
    memcpy(&low, in + threadIdx.x * 8, 4);
    memcpy(&high, in + threadIdx.x * 8 + 4, 4);
    put_word(out, int(threadIdx.x), ptx::pack_bf16(low, high));
}

// Every fourth word ends in what is a tie or next to one.
void fill_with_ties(Random& random, Bytes& input) {
    for (size_t at = 0; at < input.size(); at += 16) {
        const uint32_t word = (random.bits() & 0xffff0000u) | (0x7fffu + random.bits() % 3);
        memcpy(&input[at], &word, 4);
    }
}

// Which lane is elected is not said: only that it is one, and the same every time.
__global__ void election(unsigned char* out, const unsigned char*) {
#if LLMCORE_HAS_SM90A
    const uint32_t mask = threadIdx.x < 20 ? 0x000fffffu : 0xfff00000u;
    const bool first = ptx::elect_one(mask);
    const bool again = ptx::elect_one(mask);
    put_word(out, int(threadIdx.x), uint32_t(__popc(__ballot_sync(mask, first)) * 2 + int(first == again)));
#endif
}

// Four warps hand a value round: one arrives, the next waits.
__global__ void named_barriers(unsigned char* out, const unsigned char* in) {
    LLMCORE_SHARED(uint32_t[32], box);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    if (warp == 1) ptx::bar_sync(1, 64);
    if (warp == 2) ptx::bar_sync(2, 64);
    box[lane] = (warp ? box[lane] : 0) * 3 + word_of(in, warp * 32 + lane);
    if (warp == 0) ptx::bar_arrive(1, 64);
    if (warp == 1) ptx::bar_arrive(2, 64);
    if (warp == 2) put_word(out, lane, box[lane]);
}

template <auto kKernel, int kThreads, int kShared = 0>
void start(unsigned char* out, const unsigned char* in) {
    launch({1, kThreads, kShared}, kKernel, out, in);
}

template <int kCount, bool kTransposed>
void add_matrices(const std::string& suffix) {
    all_cases().push_back(
        {"ldmatrix" + suffix, 80, 0, 512, kCount * 128, nullptr, start<load_matrices<kCount, kTransposed>, 32, 512>});
    all_cases().push_back(
        {"stmatrix" + suffix, 90, 0, kCount * 128, 512, nullptr, start<store_matrices<kCount, kTransposed>, 32, 512>});
}

}  // namespace

void add_warp_cases() {
    add_matrices<1, false>(".x1");
    add_matrices<2, false>(".x2");
    add_matrices<4, false>(".x4");
    add_matrices<1, true>(".x1.trans");
    add_matrices<2, true>(".x2.trans");
    add_matrices<4, true>(".x4.trans");
    std::vector<Case>& cases = all_cases();
    // Products of these numbers are exact in float; their sums may be rounded in any order.
    cases.push_back({"mma.bf16", 80, 1e-6, 1280, 512, fill_fragments<Type::kBf16>, start<multiply<Type::kBf16>, 32>});
    cases.push_back({"mma.fp16", 80, 1e-6, 1280, 512, fill_fragments<Type::kFp16>, start<multiply<Type::kFp16>, 32>});
    cases.push_back({"mma.tf32", 80, 1e-6, 1280, 512, fill_fragments<Type::kTf32>, start<multiply<Type::kTf32>, 32>});
    cases.push_back({"redux, votes, shuffles", 80, 0, 128, 17 * 128, nullptr, start<collectives, 32>});
    cases.push_back({"ex2.approx.ftz", 80, 2.4e-7, 128, 128, nullptr, start<powers_of_two, 32>});
    cases.push_back({"ex2.approx.ftz, edges", 80, 0, 0, 24, nullptr, start<edges_of_powers, 1>});
    cases.push_back({"cvt.rn.bf16x2", 80, 0, 1024, 512, fill_with_ties, start<pairs_of_bf16, 128>});
    cases.push_back({"elect", 90, 0, 0, 128, nullptr, start<election, 32>});
    cases.push_back({"named barriers", 80, 0, 384, 128, nullptr, start<named_barriers, 96>});
}

}  // namespace conformance
