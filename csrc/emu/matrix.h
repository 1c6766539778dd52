// The matrix instructions of one warp: ldmatrix, stmatrix, mma.sync.
#pragma once

#include <cstdint>

#include "emu/error.h"

namespace llmcore::emu {

// count 8x8 matrices of 16-bit elements (1, 2 or 4); lanes 8i to 8i+7 hold the row addresses of matrix i. Also counts
// bank conflicts: eight rows of 16 bytes are one wavefront where they fall into eight different groups of banks.
void ldmatrix(uint32_t* registers, int count, bool transposed, uint32_t address, Location where);
void stmatrix(const uint32_t* registers, int count, bool transposed, uint32_t address, Location where);

// d (16, 8) float += a (16, K) b (K, 8): K is 16 for bf16 and fp16, 8 for tf32, whose lower 13 bits are ignored. Summed
// in float, k ascending; hardware rounds in an order of its own, so compare with a tolerance.
enum class MmaType { kBf16, kFp16, kTf32 };
void mma(MmaType type, float* d, const uint32_t* a, const uint32_t* b, Location where);

float float_of_bf16(uint32_t bits);
float float_of_fp16(uint32_t bits);

}  // namespace llmcore::emu
