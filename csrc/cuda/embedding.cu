// Embedding on CUDA. Forward: a warp to a row, eight elements to a lane.
//
// Backward: rows of one id add into one place, and how many there are of an id nobody knows before. So (id, row) pairs
// are sorted by id on the device (cuda/sort_by_id.cuh), which keeps the rows of an id in their order, and the sorted
// list is cut into pieces of kPiece rows. A warp adds up one run of equal ids within a piece, for 256 columns. If the
// run ends inside the piece at both sides, it is whole and goes to the gradient; else it goes to scratch memory, and a
// second kernel adds the parts of each such run in their order. No atomics, and no thread ever adds more than kPiece
// rows one after another, though all ids may be equal.
#include <algorithm>
#include <cstdint>

#include "cuda/map.cuh"
#include "cuda/sort_by_id.cuh"
#include "kernels/embedding.h"

namespace llmcore {
namespace {

constexpr int kRowWarps = kMapThreads / 32;
constexpr int64_t kColumns = 32 * kChunk;  // of a warp
constexpr int kPiece = 128;

LLMCORE_DEVICE int count_from(int64_t column, int64_t C) {
    return C - column < kChunk ? int(C - column) : kChunk;
}

// ---------------------------------------------------------------------------------------------------------------------
// forward

template <class T>
struct Forward {
    T* y;
    const int32_t *ids, *positions;
    EmbeddingTable<T> tokens, positions_table;
    int64_t N, T_size, C;
    bool vectors;
};

// Zeros where the table has no such row.
template <class T>
LLMCORE_DEVICE void load_row_chunk(float (&values)[kChunk], EmbeddingTable<T> table, int64_t row, int64_t c,
                                   const Forward<T>& a) {
    const bool inside = row >= 0 && row < table.rows;
    load_chunk(values, table.weight + (inside ? row * a.C + c : 0), inside ? count_from(c, a.C) : 0, a.vectors);
}

template <class T>
__global__ void __launch_bounds__(kMapThreads) forward_kernel(Forward<T> a) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    for (int64_t n = int64_t(blockIdx.x) * kRowWarps + warp; n < a.N; n += int64_t(gridDim.x) * kRowWarps) {
        const int64_t token = a.ids[n];
        const int64_t position = a.positions != nullptr ? a.positions[n] : n % a.T_size;
        for (int64_t c = lane * kChunk; c < a.C; c += kColumns) {
            float values[kChunk], added[kChunk];
            load_row_chunk(values, a.tokens, token, c, a);
            if (a.positions_table.weight != nullptr) {
                load_row_chunk(added, a.positions_table, position, c, a);
#pragma unroll
                for (int i = 0; i < kChunk; ++i) values[i] += added[i];
            }
            store_chunk(a.y + n * a.C + c, values, count_from(c, a.C), a.vectors);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// backward

template <class T>
struct Backward {
    float *dweight, *parts;  // parts (pieces, 2, C): of the run that came in, and of the one that goes on
    const T* dy;
    const int32_t *ids, *rows;  // sorted by id; ids from V on are outside the table
    int64_t N, V, C;
    bool vectors;
};

// sums += dy[rows[first]] + ... + dy[rows[last - 1]], in this order.
template <class T>
LLMCORE_DEVICE void add_rows(float (&sums)[kChunk], const Backward<T>& a, const int32_t* rows, int first, int last,
                             int64_t c) {
    constexpr int kAhead = 8;  // loads in flight
    const int count = count_from(c, a.C);
    int i = first;
    for (; i + kAhead <= last; i += kAhead) {
        float values[kAhead][kChunk];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) load_chunk(values[j], a.dy + rows[i + j] * a.C + c, count, a.vectors);
#pragma unroll
        for (int j = 0; j < kAhead; ++j)
#pragma unroll
            for (int k = 0; k < kChunk; ++k) sums[k] += values[j][k];
    }
    for (; i < last; ++i) {
        float values[kChunk];
        load_chunk(values, a.dy + rows[i] * a.C + c, count, a.vectors);
#pragma unroll
        for (int k = 0; k < kChunk; ++k) sums[k] += values[k];
    }
}

// A block to a piece and 256 columns.
template <class T>
__global__ void __launch_bounds__(kMapThreads, 2) add_runs_kernel(Backward<T> a) {
    LLMCORE_SHARED(int32_t[kPiece], ids);
    LLMCORE_SHARED(int32_t[kPiece], rows);
    LLMCORE_SHARED(int32_t[kPiece + 1], starts);  // of the runs
    LLMCORE_SHARED(uint32_t[kPiece / 32], start_bits);
    const int64_t begin = int64_t(blockIdx.x) * kPiece;
    const int size = a.N - begin < kPiece ? int(a.N - begin) : kPiece;
    const int at = int(threadIdx.x), lane = at % 32, warp = at / 32;
    if (at < size) {
        ids[at] = a.ids[begin + at];
        rows[at] = a.rows[begin + at];
    }
    __syncthreads();
    const bool starts_run = at < size && (at == 0 || ids[at] != ids[at - 1]);
    const uint32_t bits = __ballot_sync(kAllLanes, starts_run);
    if (warp < kPiece / 32 && lane == 0) start_bits[warp] = bits;
    __syncthreads();
    int runs = 0, before = 0;
    for (int i = 0; i < kPiece / 32; ++i) {
        if (i == warp) before = runs;
        runs += __popc(start_bits[i]);
    }
    if (starts_run) starts[before + __popc(bits & ((1u << lane) - 1u))] = at;
    if (at == 0) starts[runs] = size;
    __syncthreads();

    const int64_t c = blockIdx.y * kColumns + lane * kChunk;
    if (c >= a.C) return;
    for (int run = warp; run < runs; run += kRowWarps) {
        const int first = starts[run], last = starts[run + 1];
        const int32_t id = ids[first];
        if (id >= a.V) continue;
        const bool came_in = first == 0 && begin > 0 && a.ids[begin - 1] == id;
        const bool goes_on = last == size && begin + size < a.N && a.ids[begin + size] == id;
        float sums[kChunk] = {};
        const bool whole = !came_in && !goes_on;
        float* target = whole ? a.dweight + id * a.C : a.parts + (2 * int64_t(blockIdx.x) + !came_in) * a.C;
        add_rows(sums, a, rows, first, last, c);
        if (whole) {
            float total[kChunk];
            load_chunk(total, target + c, count_from(c, a.C), a.vectors);
#pragma unroll
            for (int k = 0; k < kChunk; ++k) sums[k] += total[k];
        }
        store_chunk(target + c, sums, count_from(c, a.C), a.vectors);
    }
}

// The first place from `begin` on whose id is greater.
LLMCORE_DEVICE int64_t end_of_run(const int32_t* ids, int64_t begin, int64_t end, int32_t id) {
    while (begin < end) {
        const int64_t middle = begin + (end - begin) / 2;
        if (ids[middle] > id)
            end = middle;
        else
            begin = middle + 1;
    }
    return begin;
}

// The runs that leave a piece, at the piece where they began: a thread to a column.
template <class T>
__global__ void __launch_bounds__(kMapThreads) add_long_runs_kernel(Backward<T> a) {
    const int64_t c = int64_t(blockIdx.y) * kMapThreads + threadIdx.x;
    const int64_t begin = int64_t(blockIdx.x) * kPiece, end = begin + kPiece;  // the last piece is left by none
    const int32_t id = a.ids[end - 1];
    if (id >= a.V || a.ids[end] != id || c >= a.C) return;
    if (begin > 0 && a.ids[begin - 1] == id) return;
    float sum = a.parts[(2 * int64_t(blockIdx.x) + 1) * a.C + c];
    const int64_t last_piece = (end_of_run(a.ids, end, a.N, id) - 1) / kPiece;
#pragma unroll 8
    for (int64_t piece = blockIdx.x + 1; piece <= last_piece; ++piece) sum += a.parts[2 * piece * a.C + c];
    a.dweight[id * a.C + c] += sum;
}

// Rows n % T of the positions 0, 1, ...: a thread to eight columns of a position.
template <class T>
__global__ void __launch_bounds__(kMapThreads)
    positions_backward_kernel(float* dweight, const T* dy, int64_t N, int64_t T_size, int64_t V, int64_t C,
                              bool vectors) {
    const int64_t chunks = (C + kChunk - 1) / kChunk, positions = T_size < V ? T_size : V;
    for (int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x; i < positions * chunks;
         i += int64_t(gridDim.x) * kMapThreads) {
        const int64_t position = i / chunks, c = i % chunks * kChunk;
        const int count = count_from(c, C);
        float sums[kChunk];
        load_chunk(sums, dweight + position * C + c, count, vectors);
#pragma unroll 4
        for (int64_t n = position; n < N; n += T_size) {
            float values[kChunk];
            load_chunk(values, dy + n * C + c, count, vectors);
#pragma unroll
            for (int k = 0; k < kChunk; ++k) sums[k] += values[k];
        }
        store_chunk(dweight + position * C + c, sums, count, vectors);
    }
}

int64_t pieces_of(int64_t N) {
    return (N + kPiece - 1) / kPiece;
}

unsigned over(int64_t items, int64_t each) {
    return static_cast<unsigned>((items + each - 1) / each);
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void embedding_forward(Backend backend, T* y, const int32_t* ids, const int32_t* positions, EmbeddingTable<T> tokens,
                       EmbeddingTable<T> positions_table, int64_t N, int64_t T_size, int64_t C) {
    if (N == 0 || C == 0) return;
    const bool vectors =
        C % kChunk == 0 && on_vectors(y) && on_vectors(tokens.weight) && on_vectors(positions_table.weight);
    launch(map_shape(backend, N * 32), forward_kernel<T>,
           Forward<T>{y, ids, positions, tokens, positions_table, N, T_size, C, vectors});
}

template <class Backend, class T>
void embedding_backward(Backend backend, float* dweight, const T* dy, const int32_t* ids, int32_t* indices, float* sums,
                        int64_t N, int64_t T_size, int64_t V, int64_t C) {
    if (N == 0 || C == 0) return;
    const bool vectors = C % kChunk == 0 && on_vectors(dweight) && on_vectors(dy) && on_vectors(sums);
    if (ids == nullptr) {
        launch(map_shape(backend, std::min(T_size, V) * ((C + kChunk - 1) / kChunk)), positions_backward_kernel<T>,
               dweight, dy, N, T_size, V, C, vectors);
        return;
    }
    const SortedIds sorted = sort_by_id(backend, ids, indices, N, V);
    const Backward<T> arguments{dweight, sums, dy, sorted.ids, sorted.rows, N, V, C, vectors};
    launch({dim3(over(N, kPiece), over(C, kColumns)), kMapThreads, 0, backend.stream}, add_runs_kernel<T>, arguments);
    if (N > kPiece)
        launch({dim3(over(N, kPiece) - 1, over(C, kMapThreads)), kMapThreads, 0, backend.stream},
               add_long_runs_kernel<T>, arguments);
}

template <class Backend>
EmbeddingWorkspace embedding_backward_workspace(Backend, const int32_t* ids, int64_t N, int64_t C) {
    if (ids == nullptr) return {0, 0};
    return {sort_by_id_workspace(N), static_cast<size_t>(2 * pieces_of(N) * C)};
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(embedding_forward, Cuda, float)
LLMCORE_INSTANTIATE(embedding_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(embedding_backward, Cuda, float)
LLMCORE_INSTANTIATE(embedding_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(embedding_backward_workspace, Cuda)

}  // namespace llmcore
