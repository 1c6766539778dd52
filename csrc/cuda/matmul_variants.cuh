// The kernels behind csrc/kernels/matmul.h, each started by one function; matmul.cu chooses. They take any problem
// without zeros in batch, M or N, whose sizes and number of tiles are below 2^31. The portable ones write the sums of
// y's columns over each tile's rows to column_sums (tiles along M, N), if given, for an epilogue on its way back.
#pragma once

#include <climits>

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/launch.cuh"
#include "cuda/matmul_choice.h"
#include "kernels/matmul.h"

namespace llmcore {

// Tiles of 128x128 reuse more of what they load, tiles of 64x64 make four times as many blocks; the bits are the same.
enum class TileSize { kSmall, kLarge };

// How a product is cut: into tiles, and the sums into `parts` of `part_k` k each, the last of them perhaps shorter.
// Part i of matrix m is written as matrix m * parts + i of y.
struct Cut {
    TileSize tile;
    int parts = 1;
    int part_k = INT_MAX;  // a multiple of 64 where there are parts
};

constexpr int side_of(TileSize tile) {
    return tile == TileSize::kLarge ? 128 : 64;
}

constexpr unsigned tiles_of(int64_t size, int64_t tile) {
    return static_cast<unsigned>((size + tile - 1) / tile);
}

// Multiply-adds in float, one by one in the order of k. The only one for float operands: tensor cores would round those
// to tf32.
template <class Out, class A, class B>
void matmul_simt(const Cuda& cuda, const Cut& cut, Out* y, const A* a, const B* b, const MatmulProblem& problem,
                 const MatmulEpilogue<Out>& epilogue, float* column_sums = nullptr);

// bf16 operands by mma.sync.
template <class Out>
void matmul_sm80(const Cuda& cuda, const Cut& cut, Out* y, const bf16* a, const bf16* b, const MatmulProblem& problem,
                 const MatmulEpilogue<Out>& epilogue, float* column_sums = nullptr);

// bf16 operands by TMA and wgmma, on compute capability 9.0, of any choice; K is in parts only for a float y without an
// epilogue, which are added in their order where TMA cannot describe y. Why not, as the end of a sentence, or null if
// it can be.
template <class Out>
const char* matmul_sm90_refusal(const Out* y, const bf16* a, const bf16* b, const MatmulProblem& problem,
                                const MatmulEpilogue<Out>& epilogue);
template <class Out>
void matmul_sm90(const Cuda& cuda, const MatmulChoice& choice, Out* y, const bf16* a, const bf16* b,
                 const MatmulProblem& problem, const MatmulEpilogue<Out>& epilogue, float* workspace);
size_t matmul_sm90_workspace(const MatmulChoice& choice, const MatmulProblem& problem, bool with_dbias = false);

}  // namespace llmcore
