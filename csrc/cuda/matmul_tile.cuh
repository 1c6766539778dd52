// Tiles of bf16 operands in shared memory, in the one layout that ldmatrix reads without bank conflicts, wgmma's
// descriptors name and TMA writes: lines of 128 bytes, whose eight 16-byte pieces are swizzled by the line's number.
//
//   K-major:  line r holds 64 k of row r.
//   MN-major: rows in chunks of 64; line 64 c + k holds chunk c's 64 rows at that k.
#pragma once

#include <cstring>

#include "core/bf16.h"
#include "cuda/arch/cp_async.cuh"
#include "cuda/fours.cuh"
#include "cuda/shared.cuh"
#include "kernels/matmul.h"

namespace llmcore {

// Which dimension of an operand is contiguous in memory: the summed one, or the rows (of op(a), of op(b)^T).
enum class Major { kK, kMn };

constexpr int kBlockK = 64;           // k per stage
constexpr int kLineElements = 64;     // bf16 in a line of 128 bytes
constexpr int kElementsPerPiece = 8;  // and in 16 bytes

LLMCORE_DEVICE uint32_t swizzled(int line, int piece) {
    return uint32_t(line * 128 + ((piece ^ (line & 7)) << 4));
}

// An operand as it lies in memory: (outer, inner), rows of `inner` elements `row_step` apart; inner is k for a K-major
// one.
struct Operand {
    const bf16* data;
    int outer, inner;
    int64_t row_step;
    bool whole_pieces;  // 16 bytes at once: every row starts on 16 bytes
};

// Shared memory by pointer, for ordinary stores, and by address, for instructions.
struct SharedTile {
    char* memory;
    uint32_t address;
    LLMCORE_DEVICE SharedTile at(int bytes) const { return {memory + bytes, address + uint32_t(bytes)}; }
};

struct alignas(16) Piece {
    bf16 value[kElementsPerPiece];
};

// The elements (outer, inner) to (outer, inner + 7) with zeros for what lies outside; any alignment.
LLMCORE_DEVICE Piece gather_piece(const Operand& operand, int outer, int inner) {
    Piece piece;
    const bf16* row = operand.data + size_t(outer) * size_t(operand.row_step);
#pragma unroll
    for (int i = 0; i < kElementsPerPiece; ++i) {
        const bool inside = outer < operand.outer && inner + i < operand.inner;
        piece.value[i] = inside ? row[inner + i] : bf16{0};
    }
    return piece;
}

// To shared memory, in one access.
LLMCORE_DEVICE void store_piece(char* to, const Piece& piece) {
    float words[4];
    memcpy(words, &piece, sizeof(piece));
    store_at_once(reinterpret_cast<float*>(to), words);
}

// Starts copying rows row0 to row0 + kRows - 1 at k0 to k0 + 63 into a tile; what lies outside the operand is zero.
// Ready after a wait for this thread's copies and a barrier. A thread has the same piece of every kTurn-th line.
template <Major kMajor, int kRows, int kThreads>
LLMCORE_DEVICE void copy_tile(const SharedTile& tile, const Operand& operand, int row0, int k0) {
    constexpr int kTurn = kThreads / 8;
    static_assert(kRows % 64 == 0 && 64 % kTurn == 0 && kTurn % 8 == 0, "turns end with chunks, and swizzle alike");
    const int line = int(threadIdx.x) / 8, piece = int(threadIdx.x) % 8;
    const uint32_t to = swizzled(line, piece);
    auto outer = [&](int turn) {
        return kMajor == Major::kK ? row0 + line + turn * kTurn : k0 + line + turn * kTurn % kBlockK;
    };
    auto inner = [&](int turn) {
        return (kMajor == Major::kK ? k0 : row0 + turn * kTurn / kBlockK * kLineElements) + piece * kElementsPerPiece;
    };
    if (operand.whole_pieces) {
        // Counted on from turn to turn: written as products, the offsets of all turns would be kept in registers.
        size_t at = size_t(outer(0)) * size_t(operand.row_step) + size_t(inner(0));
#pragma unroll
        for (int turn = 0; turn < kRows / kTurn; ++turn) {
            const int left = outer(turn) < operand.outer ? operand.inner - inner(turn) : 0;
            const int bytes = left >= kElementsPerPiece ? 16 : left > 0 ? left * 2 : 0;
            ptx::cp_async<16>(tile.address + to + uint32_t(turn * kTurn * 128), operand.data + (bytes > 0 ? at : 0),
                              bytes);
            at += size_t((outer(turn + 1) - outer(turn)) * operand.row_step + inner(turn + 1) - inner(turn));
        }
    } else {
#pragma unroll 1
        for (int turn = 0; turn < kRows / kTurn; ++turn)
            store_piece(tile.memory + to + turn * kTurn * 128, gather_piece(operand, outer(turn), inner(turn)));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// which tile a block computes

struct TileIndex {
    int matrix, m, n;
};

// Blocks that run at the same time should share operands in the second-level cache: they go down groups of eight tiles
// before they move to the next column of tiles.
LLMCORE_DEVICE TileIndex tile_of_block(unsigned block, int tiles_m, int tiles_n) {
    constexpr int kGroup = 8;
    const unsigned tiles = unsigned(tiles_m) * unsigned(tiles_n), in_matrix = block % tiles;
    const int group = int(in_matrix / unsigned(kGroup * tiles_n)), first = group * kGroup;
    const int rows = tiles_m - first < kGroup ? tiles_m - first : kGroup;
    const int in_group = int(in_matrix - unsigned(first) * unsigned(tiles_n));
    return {int(block / tiles), first + in_group % rows, in_group / rows};
}

}  // namespace llmcore
