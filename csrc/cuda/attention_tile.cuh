// Tiles of bf16 rows of one head in shared memory, and their products by mma.sync.
//
// A tile holds its columns in chunks of 64: lines of 128 bytes, one per row, whose pieces of 16 bytes are swizzled as
// in matmul_tile.cuh, so that ldmatrix meets no bank conflicts in either direction. A warp owns 16 kM rows of every
// result; sums stay in its registers, and become operands of the next product there.
#pragma once

#include "cuda/arch/float.cuh"
#include "cuda/arch/matrix.cuh"
#include "cuda/matmul_tile.cuh"

namespace llmcore {

// kRows rows of kWidth columns, a multiple of 16.
template <int kRows, int kWidth>
struct HeadTile {
    static_assert(kRows % 8 == 0 && kWidth % 16 == 0, "swizzling repeats after eight rows, products take 16 columns");
    static constexpr int kPieces = kWidth / 8, kChunks = (kWidth + 63) / 64, kBytes = kChunks * kRows * 128;

    // Threads that go along rows together, a piece each; some may have none.
    static constexpr int kRowThreads = kPieces <= 4 ? 4 : kPieces <= 8 ? 8 : kPieces <= 16 ? 16 : 32;
    static_assert(kPieces <= kRowThreads, "all pieces of a row have their thread");

    LLMCORE_DEVICE static uint32_t offset(int row, int piece) {
        return uint32_t(piece / 8 * kRows * 128) + swizzled(row, piece % 8);
    }
    LLMCORE_DEVICE static int piece_of(int thread) { return thread % kRowThreads; }
    // Of rows of half a line, two are read at once, which fill all banks if they are four lines apart.
    LLMCORE_DEVICE static int row_of(int thread) {
        const int row = thread / kRowThreads;
        return kRowThreads == 4 ? (row & ~7) | (row & 1) << 2 | (row >> 1 & 3) : row;
    }
};

// The rows of one head in memory; only those in [begin, end) may be read, the others count as zeros.
struct HeadRows {
    const bf16* data;
    int64_t stride;
    int begin, end, HS;
    bool whole_pieces;  // 16 bytes at once: every row starts on 16 bytes and ends with a piece
};

// For that: `data` is any of a tensor's rows.
inline bool whole_pieces(const bf16* data, int64_t stride, int64_t HS) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0 && HS % 8 == 0;
}

LLMCORE_DEVICE Piece gather_piece(const HeadRows& rows, int row, int column) {
    Piece piece;
    const bool inside = row >= rows.begin && row < rows.end;
    const bf16* from = rows.data + (inside ? int64_t(row) * rows.stride : 0);
#pragma unroll
    for (int i = 0; i < kElementsPerPiece; ++i)
        piece.value[i] = inside && column + i < rows.HS ? from[column + i] : bf16{0};
    return piece;
}

// Starts copying rows `first` to first + kRows - 1 into a tile. Ready after a wait for this thread's copies and a
// barrier. A thread has the same piece of every kTurn-th row.
template <int kRows, int kWidth, int kThreads>
LLMCORE_DEVICE void copy_rows(const SharedTile& tile, const HeadRows& rows, int first) {
    using Layout = HeadTile<kRows, kWidth>;
    constexpr int kTurn = kThreads / Layout::kRowThreads;
    static_assert(kRows % kTurn == 0 && (Layout::kRowThreads > 4 || kTurn % 8 == 0), "turns are whole");
    const int line = Layout::row_of(int(threadIdx.x)), piece = Layout::piece_of(int(threadIdx.x));
    if (piece >= Layout::kPieces) return;
    if (rows.whole_pieces) {
        // Counted on from turn to turn: written as products, the offsets of all turns would be kept in registers.
        int64_t at = int64_t(first + line) * rows.stride + piece * kElementsPerPiece;
        const bool inside_row = piece * kElementsPerPiece < rows.HS;
#pragma unroll
        for (int turn = 0; turn < kRows / kTurn; ++turn) {
            const int row = first + line + turn * kTurn;
            const bool inside = inside_row && row >= rows.begin && row < rows.end;
            ptx::cp_async<16>(tile.address + Layout::offset(line + turn * kTurn, piece), rows.data + (inside ? at : 0),
                              inside ? 16 : 0);
            at += kTurn * rows.stride;
        }
    } else {
#pragma unroll 1
        for (int turn = 0; turn < kRows / kTurn; ++turn)
            store_piece(tile.memory + Layout::offset(line + turn * kTurn, piece),
                        gather_piece(rows, first + line + turn * kTurn, piece * kElementsPerPiece));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// fragments

// What ldmatrix takes out of a tile of kRows rows, 16x16 at a time, as four 8x8. A lane's offset at (16 i, 16 s) of
// (rows, columns) follows from that at the start: 16 columns are two pieces, and an XOR with 32 bytes. The tile's
// address is added last: the XORs are then the same for all tiles, and share their registers.
template <int kRows>
struct Sixteens {
    uint32_t tile, lane_offset;
    LLMCORE_DEVICE uint32_t at(int i, int s) const {
        return (lane_offset ^ uint32_t(s % 4 * 32)) + (tile + uint32_t(s / 4 * kRows * 128 + i * 16 * 128));
    }
};

// From `row` on, a multiple of 16. The 8x8 in the order (0, 0), (8, 0), (0, 8), (8, 8): as loaded, the left operand of
// mma.sync; transposed, the right operands of two, for the first eight columns and for the last.
template <int kRows>
LLMCORE_DEVICE Sixteens<kRows> rows_first(uint32_t tile, int row) {
    const int lane = int(threadIdx.x) % 32;
    return {tile + uint32_t(row * 128), swizzled(lane % 16, lane / 16)};
}

// (0, 0), (0, 8), (8, 0), (8, 8): the right operands of two mma.sync whose result has a column for each row of the
// tile.
template <int kRows>
LLMCORE_DEVICE Sixteens<kRows> columns_first(uint32_t tile, int row) {
    const int lane = int(threadIdx.x) % 32;
    return {tile + uint32_t(row * 128), swizzled(lane / 16 * 8 + lane % 8, lane / 8 % 2)};
}

// A warp's part of a result: 16 kM rows of kN columns; sums[i][j] is the 16x8 at (16 i, 8 j), in which a lane holds
// [0], [1] at row lane / 4, columns lane % 4 * 2 and the next, and [2], [3] eight rows below.
template <int kM, int kN>
using WarpSums = float[kM][kN / 8][4];

// 16 kM rows of kK columns as left operands, in bf16: half as many registers as the sums that they were.
template <int kM, int kK>
using WarpOperands = uint32_t[kM][kK / 16][4];

template <int kM, int kK>
LLMCORE_DEVICE void round_sums(WarpOperands<kM, kK>& rounded, const WarpSums<kM, kK>& sums) {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kK / 8; ++j)
#pragma unroll
            for (int r = 0; r < 2; ++r)
                rounded[i][j / 2][j % 2 * 2 + r] = ptx::pack_bf16(sums[i][j][2 * r], sums[i][j][2 * r + 1]);
}

// f(element, row, column) for each of a lane's elements of the 16 kM x kN at (row, column).
template <int kM, int kN, class F>
LLMCORE_DEVICE void for_elements_of(WarpSums<kM, kN>& sums, int row, int column, F&& f) {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kN / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                f(sums[i][j][e], row + 16 * i + e / 2 * 8 + lane / 4, column + 8 * j + lane % 4 * 2 + e % 2);
}

// sums = a b^T: kWidth columns of 16 kM rows of a, by those of kN rows of b from row 16 j0 on.
template <int kWidth, int kM, int kN, int kRowsA, int kRowsB>
LLMCORE_DEVICE void multiply_rows(WarpSums<kM, kN>& sums, Sixteens<kRowsA> a, Sixteens<kRowsB> b, int j0) {
    a.lane_offset = ptx::unhoisted(a.lane_offset);
    b.lane_offset = ptx::unhoisted(b.lane_offset);
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kN / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
#pragma unroll
    for (int s = 0; s < kWidth / 16; ++s) {
        uint32_t left[kM][4];
#pragma unroll
        for (int i = 0; i < kM; ++i) ptx::ldmatrix<4>(left[i], a.at(i, s));
#pragma unroll
        for (int j = 0; j < kN / 16; ++j) {
            uint32_t right[4];
            ptx::ldmatrix<4>(right, b.at(j0 + j, s));
#pragma unroll
            for (int i = 0; i < kM; ++i) {
                ptx::mma_bf16(sums[i][2 * j], left[i], right);
                ptx::mma_bf16(sums[i][2 * j + 1], left[i], right + 2);
            }
        }
    }
}

// sums += weights b: the weights' kK columns by as many rows of b from row 16 j0 on, kWidth columns.
template <int kWidth, int kM, int kK, int kRowsB>
LLMCORE_DEVICE void add_weighted_rows(WarpSums<kM, kWidth>& sums, const WarpOperands<kM, kK>& weights,
                                      Sixteens<kRowsB> b, int j0) {
    b.lane_offset = ptx::unhoisted(b.lane_offset);
#pragma unroll
    for (int j = 0; j < kK / 16; ++j)
#pragma unroll
        for (int s = 0; s < kWidth / 16; ++s) {
            uint32_t right[4];
            ptx::ldmatrix<4, true>(right, b.at(j0 + j, s));
#pragma unroll
            for (int i = 0; i < kM; ++i) {
                ptx::mma_bf16(sums[i][2 * s], weights[i][j], right);
                ptx::mma_bf16(sums[i][2 * s + 1], weights[i][j], right + 2);
            }
        }
}

// ---------------------------------------------------------------------------------------------------------------------
// results

// Where the rows of one head of a result go; `end` rows are there.
struct HeadResult {
    bf16* data;
    int64_t stride;
    int end, HS;
    bool whole_pieces;
};

// Stores a warp's sums times factor(i, r) of their rows (16 i + 8 r + lane / 4) as rows `first` on of a result, through
// those rows of a tile that the warp alone uses: whole lines then go out 16 bytes at a time.
template <int kRows, int kWidth, int kM, class Factor>
LLMCORE_DEVICE void store_rows(const HeadResult& result, int first, const SharedTile& tile, int row,
                               const WarpSums<kM, kWidth>& sums, Factor&& factor) {
    using Layout = HeadTile<kRows, kWidth>;
    const int lane = int(threadIdx.x) % 32;
    __syncwarp();  // the rows have been read by all lanes
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int j = 0; j < kWidth / 8; ++j) {
                const float by = factor(i, r);
                const uint32_t at = Layout::offset(row + 16 * i + 8 * r + lane / 4, j) + uint32_t(lane % 4 * 4);
                *reinterpret_cast<uint32_t*>(tile.memory + at) =
                    ptx::pack_bf16(sums[i][j][2 * r] * by, sums[i][j][2 * r + 1] * by);
            }
    __syncwarp();
#pragma unroll 1
    for (int n = lane; n < 16 * kM * Layout::kRowThreads; n += 32) {
        const int line = Layout::row_of(n), column = Layout::piece_of(n) * kElementsPerPiece;
        if (first + line >= result.end || column >= kWidth || column >= result.HS) continue;
        const Piece piece = *reinterpret_cast<const Piece*>(tile.memory + Layout::offset(row + line, column / 8));
        bf16* to = result.data + int64_t(first + line) * result.stride + column;
        if (result.whole_pieces) {
            *reinterpret_cast<Piece*>(to) = piece;
        } else {
#pragma unroll
            for (int e = 0; e < kElementsPerPiece; ++e)
                if (column + e < result.HS) to[e] = piece.value[e];
        }
    }
}

}  // namespace llmcore
