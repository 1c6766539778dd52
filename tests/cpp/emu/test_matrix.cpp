// ldmatrix, stmatrix and mma.sync against the fragment layouts as the PTX manual states them, element by element (PTX
// ISA 9.7.14.5.15, .16 and the figures of m16n8k8 and m16n8k16).
#include "bf16.h"
#include "check.h"
#include "cuda/arch/matrix.cuh"
#include "cuda/launch.cuh"
#include "cuda/shared.cuh"

using namespace llmcore;

namespace {

// Rows of one matrix lie 48 bytes apart and the matrices come in reverse, so that every lane's address counts.
uint32_t row_address(uint32_t base, int matrix, int row) {
    return base + uint32_t((3 - matrix) * 400 / 16 * 16 + row * 48);
}

template <int kCount, bool kTransposed>
void load_kernel(uint32_t* result) {
    uint16_t* elements = shared_memory<uint16_t>();
    uint32_t base = shared_address(elements);
    int lane = int(threadIdx.x);
    for (int i = 0; i < 4; ++i)
        for (int row = 0; row < 8; ++row)
            if (lane < 8)
                elements[(row_address(base, i, row) - base) / 2 + unsigned(lane)] = uint16_t(i * 64 + row * 8 + lane);
    __syncwarp();
    uint32_t r[kCount];
    // Lanes beyond 8 * kCount give addresses that nobody may use.
    uint32_t address = lane < 8 * kCount ? row_address(base, lane / 8, lane % 8) : 7;
    ptx::ldmatrix<kCount, kTransposed>(r, address);
    for (int i = 0; i < kCount; ++i) result[i * 32 + lane] = r[i];
}

template <int kCount, bool kTransposed>
void check_load() {
    uint32_t result[32 * kCount];
    launch({1, 32, 2048}, load_kernel<kCount, kTransposed>, result);
    for (int i = 0; i < kCount; ++i)
        for (int lane = 0; lane < 32; ++lane)
            for (int h = 0; h < 2; ++h) {
                // "Each thread receives the fragment of row T / 4, elements 2 (T % 4) and the next"; with .trans the
                // matrix is read in column-major order.
                int row = lane / 4, column = 2 * (lane % 4) + h;
                int expected = i * 64 + (kTransposed ? column * 8 + row : row * 8 + column);
                EXPECT(int(result[i * 32 + lane] >> 16 * h & 0xffff) == expected);
            }
}

TEST(ldmatrix_gives_the_fragments_of_the_manual) {
    check_load<1, false>(), check_load<1, true>();
    check_load<2, false>(), check_load<2, true>();
    check_load<4, false>(), check_load<4, true>();
}

template <int kCount, bool kTransposed>
void store_kernel(uint16_t* result) {
    uint16_t* elements = shared_memory<uint16_t>();
    uint32_t base = shared_address(elements), r[kCount];
    int lane = int(threadIdx.x);
    for (int i = 0; i < kCount; ++i) r[i] = uint32_t(i * 64 + lane * 2) | uint32_t(i * 64 + lane * 2 + 1) << 16;
    ptx::stmatrix<kCount, kTransposed>(lane < 8 * kCount ? row_address(base, lane / 8, lane % 8) : 7, r);
    __syncwarp();
    for (int i = 0; i < kCount; ++i)
        for (int row = 0; row < 8; ++row)
            if (lane < 8)
                result[i * 64 + row * 8 + lane] = elements[(row_address(base, i, row) - base) / 2 + unsigned(lane)];
}

template <int kCount, bool kTransposed>
void check_store() {
    uint16_t result[64 * kCount];
    launch({1, 32, 2048}, store_kernel<kCount, kTransposed>, result);
    for (int i = 0; i < kCount; ++i)
        for (int row = 0; row < 8; ++row)
            for (int column = 0; column < 8; ++column) {
                int r = kTransposed ? column : row, c = kTransposed ? row : column;
                int lane = r * 4 + c / 2;  // that holds the element
                EXPECT(result[i * 64 + row * 8 + column] == i * 64 + lane * 2 + c % 2);
            }
}

TEST(stmatrix_is_the_inverse_of_ldmatrix) {
    check_store<1, false>(), check_store<1, true>();
    check_store<2, false>(), check_store<2, true>();
    check_store<4, false>(), check_store<4, true>();
}

void conflict_kernel(int stride) {
    uint32_t r[4], base = shared_address(shared_memory<char>());
    ptx::ldmatrix<4>(r, base + threadIdx.x * uint32_t(stride));
}

TEST(bank_conflicts_are_counted) {
    for (auto [stride, conflicts] : {std::pair{16, 0}, {32, 4}, {64, 12}, {128, 28}, {144, 0}}) {
        emu::statistics() = {};
        launch({1, 32, 8192}, conflict_kernel, stride);
        EXPECT(emu::statistics().bank_conflicts == uint64_t(conflicts));
    }
}

// Fragments element by element: for K = 16 element i of A is in row g or g + 8 and column 2t + (i & 1) (+ 8), where the
// row is g for i = 0, 1, 4, 5 and the column gains 8 from i = 4 on; B's element i is row 2t + (i & 1) (+ 8 from i = 2).
struct Fragments {
    uint32_t a[32][4], b[32][2];
    float d[32][4];
};

void mma_kernel(Fragments* f, emu::MmaType type) {
    auto& a = f->a[threadIdx.x];
    auto& d = f->d[threadIdx.x];
    const uint32_t* b = f->b[threadIdx.x];
    if (type == emu::MmaType::kBf16) ptx::mma_bf16(d, a, b);
    if (type == emu::MmaType::kFp16) ptx::mma_fp16(d, a, b);
    if (type == emu::MmaType::kTf32) ptx::mma_tf32(d, a, b);
}

uint32_t encode(emu::MmaType type, float value) {
    uint32_t bits = 0;
    _Float16 half = static_cast<_Float16>(value);
    if (type == emu::MmaType::kBf16) return bf16_bits(value);
    if (type == emu::MmaType::kFp16) return std::memcpy(&bits, &half, 2), bits;
    std::memcpy(&bits, &value, 4);
    return bits | 0x1fff;  // tf32 ignores these
}

void check_mma(emu::MmaType type) {
    bool wide = type == emu::MmaType::kTf32;
    int K = wide ? 8 : 16;
    float A[16][16], B[16][8], C[16][8];
    for (auto& row : A)
        for (float& x : row) x = std::floor(random_number() * 100);  // exact in all three types
    for (auto& row : B)
        for (float& x : row) x = std::floor(random_number() * 100);
    for (auto& row : C)
        for (float& x : row) x = std::floor(random_number() * 100);
    Fragments f{};
    for (int lane = 0; lane < 32; ++lane) {
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 8; ++i) {
            int row = (i / 2) % 2 ? g + 8 : g, column = t * 2 + (i & 1) + (i >= 4 ? 8 : 0);
            if (!wide) f.a[lane][i / 2] |= encode(type, A[row][column]) << 16 * (i & 1);
        }
        for (int i = 0; i < 4; ++i) {
            if (!wide) f.b[lane][i / 2] |= encode(type, B[t * 2 + (i & 1) + (i >= 2 ? 8 : 0)][g]) << 16 * (i & 1);
            if (wide) f.a[lane][i] = encode(type, A[i == 1 || i == 3 ? g + 8 : g][i >= 2 ? t + 4 : t]);
            if (wide && i < 2) f.b[lane][i] = encode(type, B[i ? t + 4 : t][g]);
            f.d[lane][i] = C[i < 2 ? g : g + 8][t * 2 + (i & 1)];
        }
    }
    launch({1, 32}, mma_kernel, &f, type);
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            int row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1);
            float expected = C[row][column];
            for (int k = 0; k < K; ++k) expected += A[row][k] * B[k][column];
            EXPECT(f.d[lane][i] == expected);
        }
}

TEST(mma_multiplies_the_fragments_of_the_manual) {
    check_mma(emu::MmaType::kBf16);
    check_mma(emu::MmaType::kFp16);
    check_mma(emu::MmaType::kTf32);
}

void outside_kernel() {
    LLMCORE_SHARED(uint64_t[2], words);
    uint32_t r[4];
    ptx::ldmatrix<4>(r, shared_address(&words[0]) + threadIdx.x * 16);
}

void misaligned_kernel() {
    uint32_t r[4];
    ptx::ldmatrix<4>(r, shared_address(shared_memory<char>()) + threadIdx.x * 8);
}

void missing_lanes_kernel() {
    float d[4];
    uint32_t a[4] = {};
    ptx::mma_bf16(d, a, a);
}

TEST(misused_matrix_instructions_are_refused) {
    expect_error("shared-bounds", "16-byte access at shared address 0x", [] { launch({1, 32}, outside_kernel); });
    expect_error("align", "ldmatrix row address is not a multiple of 16",
                 [] { launch({1, 32, 2048}, misaligned_kernel); });
    expect_error("warp", "mma.sync needs all 32 lanes", [] { launch({1, 16}, missing_lanes_kernel); });
}

}  // namespace
