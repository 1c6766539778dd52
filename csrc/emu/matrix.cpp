#include "emu/matrix.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "emu/machine.h"
#include "emu/policy.h"

namespace llmcore::emu {
namespace {

struct Matrices {
    const char* name;
    uint32_t* registers;
    uint32_t address;
    int count;
    bool transposed, store;
    Location where;
    Thread* thread;
};

Matrices& of_lane(void** arguments, int lane) {
    return *static_cast<Matrices*>(arguments[lane]);
}

void check_whole_warp(uint32_t mask, const char* name, Location where) {
    if (mask != ~0u) fail("warp", std::string(name) + " needs all 32 lanes", where);
}

void count_conflicts(void** arguments, int matrix) {
    int rows_of_group[8] = {}, most = 0;
    for (int j = 0; j < 8; ++j)
        most = std::max(most, ++rows_of_group[of_lane(arguments, matrix * 8 + j).address >> 4 & 7]);
    statistics().bank_conflicts += unsigned(most - 1);
}

// The 16-bit element of the 8x8 matrix that half h of a lane's register is.
uint16_t& element(uint16_t (&m)[8][8], int lane, int h, bool transposed) {
    int row = lane / 4, column = lane % 4 * 2 + h;
    return transposed ? m[column][row] : m[row][column];
}

char* row_of(Matrices& lane) {
    if (lane.address % 16) fail("align", std::string(lane.name) + " row address is not a multiple of 16", lane.where);
    char* row = lane.thread->block->shared.at(lane.address, 16, lane.where);
    record(*lane.thread, lane.address, 16, lane.store ? AccessKind::kWrite : AccessKind::kRead, lane.where);
    return row;
}

void move_matrices(void** arguments, uint32_t mask) {
    const Matrices& first = of_lane(arguments, __builtin_ctz(mask));
    check_whole_warp(mask, first.name, first.where);
    bool transposed = first.transposed;
    for (int i = 0; i < first.count; ++i) {
        count_conflicts(arguments, i);
        uint16_t m[8][8];
        if (first.store)
            for (int lane = 0; lane < 32; ++lane)
                for (int h = 0; h < 2; ++h)
                    element(m, lane, h, transposed) = uint16_t(of_lane(arguments, lane).registers[i] >> 16 * h);
        for (int j = 0; j < 8; ++j) {
            char* row = row_of(of_lane(arguments, i * 8 + j));
            first.store ? std::memcpy(row, m[j], 16) : std::memcpy(m[j], row, 16);
        }
        if (!first.store)
            for (int lane = 0; lane < 32; ++lane)
                of_lane(arguments, lane).registers[i] =
                    element(m, lane, 0, transposed) | uint32_t(element(m, lane, 1, transposed)) << 16;
    }
}

struct Product {
    MmaType type;
    float* d;
    const uint32_t *a, *b;
    Location where;
};

float tf32(uint32_t bits) {
    bits &= ~0x1fffu;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Gathers A (16, K) and B (K, 8) from the lanes' registers. Register r of A: rows g and g + 8, columns in two halves.
void gather(void** arguments, MmaType type, float (&A)[16][16], float (&B)[16][8]) {
    auto convert = type == MmaType::kBf16 ? float_of_bf16 : float_of_fp16;
    for (int lane = 0; lane < 32; ++lane) {
        const Product& p = *static_cast<Product*>(arguments[lane]);
        int g = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; ++r)
            if (type == MmaType::kTf32)
                A[g + r % 2 * 8][t + r / 2 * 4] = tf32(p.a[r]);
            else
                for (int h = 0; h < 2; ++h)
                    A[g + r % 2 * 8][t * 2 + h + r / 2 * 8] = convert(p.a[r] >> 16 * h & 0xffff);
        for (int r = 0; r < 2; ++r)
            if (type == MmaType::kTf32)
                B[t + r * 4][g] = tf32(p.b[r]);
            else
                for (int h = 0; h < 2; ++h) B[t * 2 + h + r * 8][g] = convert(p.b[r] >> 16 * h & 0xffff);
    }
}

void multiply(void** arguments, uint32_t mask) {
    const Product& first = *static_cast<Product*>(arguments[__builtin_ctz(mask)]);
    check_whole_warp(mask, "mma.sync", first.where);
    ++statistics().matrix_instructions;
    float A[16][16], B[16][8], D[16][8];
    gather(arguments, first.type, A, B);
    auto for_d = [&](auto body) {
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i)
                body(static_cast<Product*>(arguments[lane])->d[i], D[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    };
    for_d([](float& mine, float& element_of_d) { element_of_d = mine; });
    int K = first.type == MmaType::kTf32 ? 8 : 16;
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < K; ++k)
            for (int n = 0; n < 8; ++n) D[m][n] += A[m][k] * B[k][n];
    for_d([](float& mine, float& element_of_d) { mine = element_of_d; });
}

}  // namespace

float float_of_bf16(uint32_t bits) {
    bits <<= 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float float_of_fp16(uint32_t bits) {
    uint16_t half = static_cast<uint16_t>(bits);
    _Float16 value;
    std::memcpy(&value, &half, sizeof value);
    return static_cast<float>(value);
}

void ldmatrix(uint32_t* registers, int count, bool transposed, uint32_t address, Location where) {
    Matrices argument{"ldmatrix", registers, address, count, transposed, false, where, &self()};
    collective(~0u, argument.name, &argument, move_matrices, where);
}

void stmatrix(const uint32_t* registers, int count, bool transposed, uint32_t address, Location where) {
    uint32_t copy[4];
    std::copy_n(registers, count, copy);
    Matrices argument{"stmatrix", copy, address, count, transposed, true, where, &self()};
    collective(~0u, argument.name, &argument, move_matrices, where);
}

void mma(MmaType type, float* d, const uint32_t* a, const uint32_t* b, Location where) {
    Product argument{type, d, a, b, where};
    collective(~0u, "mma.sync", &argument, multiply, where);
}

}  // namespace llmcore::emu
