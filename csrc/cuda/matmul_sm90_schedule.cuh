// Which tile when, for the persistent blocks of csrc/cuda/matmul_sm90.cu. The work is cut into pieces: one tile for
// each block of a cluster, over some steps of K. Cluster c of C computes either
//
//   units     c, c + C, c + 2C and so on of a list: all tiles over the first part of K, then over the second one ...
//   a stream  the c-th of C equal shares of all tiles' steps, one tile's after another's: stream-K. A share begins and
//             ends within tiles.
//
// A piece that is not its tile's first may have to wait for those before it. In units these are ahead of it in the
// list. A stream is computed from its end: what others wait for, the first steps of its last tile, comes first, and
// what itself has to wait, the last steps of its first tile, comes last, when the share before it has long been there.
#pragma once

#include "cuda/arch/cluster.cuh"
#include "cuda/matmul_tile.cuh"

namespace llmcore {

struct TileWork {
    int matrix, m, n;       // which tile
    int first_step, steps;  // of K, kBlockK each; the last may reach past K, where operands load as zeros
    unsigned turnstile;     // the tile's number, alike for all its pieces
};

template <bool kInParts>
struct Schedule {
    int units_m, units_n, units;  // tiles of clusters: down, across, in all matrices
    int cluster, clusters;        // blocks in one, and how many of them run
    int steps;                    // of a unit; in a stream, of a whole tile
    int count;                    // units over all parts of K
    int share, longer;            // a stream's steps, one more for the first `longer` ones; 0 if there are no streams

    LLMCORE_DEVICE int own() const { return int(blockIdx.x) / cluster; }
    LLMCORE_DEVICE int stream_begin(int stream) const { return stream * share + (stream < longer ? stream : longer); }

    LLMCORE_DEVICE bool streams() const { return kInParts && share != 0; }

    // A piece's number: in the list of units, or in the stream, counted from its end.
    LLMCORE_DEVICE int first() const { return streams() ? 0 : own(); }
    LLMCORE_DEVICE int stride() const { return streams() ? 1 : clusters; }
    LLMCORE_DEVICE bool has(int piece) const {
        if (!streams()) return piece < count;
        return (stream_begin(own() + 1) - 1) / steps - piece >= stream_begin(own()) / steps;
    }

    LLMCORE_DEVICE TileWork at(int piece) const {
        int unit = piece, first_step = 0, end_step = steps;
        if (streams()) {
            const int begin = stream_begin(own()), end = stream_begin(own() + 1);
            unit = (end - 1) / steps - piece;
            first_step = begin > unit * steps ? begin - unit * steps : 0;
            end_step = end < (unit + 1) * steps ? end - unit * steps : steps;
        } else if (kInParts) {
            const int part = unit / units;
            unit -= part * units;
            first_step = part * steps;
            end_step = first_step + steps;
        }
        const int rank = int(ptx::cluster_rank());
        const TileIndex tile = tile_of_block(unsigned(unit), units_m, units_n);
        return {tile.matrix, tile.m * cluster + rank, tile.n,
                first_step,  end_step - first_step,   unsigned(unit * cluster + rank)};
    }

    // The same as at(piece).steps.
    LLMCORE_DEVICE int steps_of(int piece) const { return streams() ? at(piece).steps : steps; }
};

}  // namespace llmcore
