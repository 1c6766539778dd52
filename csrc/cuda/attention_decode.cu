// Attention of a few queries over a cache (Dao et al. 2023, "Flash-Decoding for long-context inference"): what costs is
// reading the keys and values, so they are read once, 16 bytes at a time, by enough blocks to keep the memory busy.
//
// The keys are cut into chunks, whose number follows from the size of the cache alone: a row's bits depend neither on
// its batch nor on the device. A block has a chunk of one key/value head and up to kRows of the rows (queries of the
// heads of the group) that read it. A key lies across a team of lanes; teams take keys by turns, each with its own
// running maximum, and are combined in a fixed order: first within warps, then the warps, then, by a second kernel, the
// chunks.
#include "cuda/arch/float.cuh"
#include "cuda/attention_variants.cuh"
#include "cuda/shared.cuh"
#include "cuda/vec.cuh"
#include "cuda/warp.cuh"

namespace llmcore {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kChunk = 128;     // keys of a block
constexpr int kKeysAtOnce = 4;  // of a team: their loads are under way together

int64_t chunks_of(const AttentionProblem& p) {
    return tiles_of_rows(p.Tk, kChunk);
}

template <class T>
struct Decode {
    T* out;
    const T *q, *k, *v;
    float* partial;  // of each row (b, head, query) and chunk: the sums over its values (HS), their maximum, their sum
    AttentionProblem problem;
    float scale_log2;
    int chunks, team;  // team: lanes of a key, a power of two
    bool whole_vectors;
};

// The sums of one row over some keys, relative to 2^largest: kVectors vectors of the columns.
template <int kColumns>
struct Sums {
    float largest, sum, out[kColumns];
};

// Both relative to the larger maximum. Sums without keys are zeros with a maximum of -infinity.
template <int kColumns>
LLMCORE_DEVICE void combine(Sums<kColumns>& a, const Sums<kColumns>& b) {
    const float largest = fmaxf(a.largest, b.largest), shift = largest == -INFINITY ? 0.0f : largest;
    const float of_a = ptx::exp2_approximate(a.largest - shift), of_b = ptx::exp2_approximate(b.largest - shift);
    a.largest = largest;
    a.sum = a.sum * of_a + b.sum * of_b;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) a.out[c] = a.out[c] * of_a + b.out[c] * of_b;
}

// The columns of a lane: vector v begins at column (v * team + lane of the team) * kPer.
template <class T, int kVectors>
LLMCORE_DEVICE void load_columns(float (&values)[kVectors * kPerVector<T>], const T* row, const Decode<T>& a,
                                 int member) {
    constexpr int kPer = kPerVector<T>;
    const int HS = int(a.problem.HS);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
        const int column = (v * a.team + member) * kPer;
        float vector[kPer] = {};
        if (a.whole_vectors) {
            if (column < HS) load_vector(vector, row + column);
        } else {
#pragma unroll
            for (int e = 0; e < kPer; ++e)
                if (column + e < HS) vector[e] = to_float(row[column + e]);
        }
#pragma unroll
        for (int e = 0; e < kPer; ++e) values[v * kPer + e] = vector[e];
    }
}

// Rows `first_row` and up to kRows - 1 more of a key/value head: row n is query n % Tq of head n / Tq of the group.
template <class T, int kRows, int kVectors>
__global__ void __launch_bounds__(kThreads) attention_decode_kernel(Decode<T> a, int first_row) {
    constexpr int kColumns = kVectors * kPerVector<T>;
    const AttentionProblem& p = a.problem;
    const int Tq = int(p.Tq), group = int(p.NH / p.NKV), HS = int(p.HS), rows = group * Tq;
    const int chunk = int(blockIdx.x) % a.chunks, kv = int(blockIdx.x) / a.chunks % int(p.NKV);
    const int b = int(blockIdx.x) / a.chunks / int(p.NKV);
    const Visible visible = visible_keys(p, b);
    const int begin = most(visible.begin, chunk * kChunk), end = least(visible.end, (chunk + 1) * kChunk);
    if (begin >= end) return;  // the second kernel knows

    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int teams = kThreads / a.team, team = int(threadIdx.x) / a.team, member = int(threadIdx.x) % a.team;
    float q[kRows][kColumns];
    Sums<kColumns> sums[kRows];
    int row_end[kRows];  // the row sees keys before this one
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
        const int row = least(first_row + n, rows - 1), h = kv * group + row / Tq, i = row % Tq;
        load_columns<T, kVectors>(q[n], a.q + (b * p.Tq + i) * p.q_stride + h * p.HS, a, member);
        row_end[n] = first_row + n < rows ? least(end, visible.end_of(i)) : begin;
        sums[n].largest = -INFINITY, sums[n].sum = 0.0f;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) q[n][c] *= a.scale_log2, sums[n].out[c] = 0.0f;
    }

    const T* k = a.k + b * p.Tk * p.k_stride + kv * p.HS;
    const T* v = a.v + b * p.Tk * p.v_stride + kv * p.HS;
#pragma unroll 1
    for (int first = begin; first < end; first += teams * kKeysAtOnce) {
        float scores[kRows][kKeysAtOnce];
        float values[kKeysAtOnce][kColumns];
#pragma unroll
        for (int n = 0; n < kKeysAtOnce; ++n) {
            // Past the end the last key is read again, and not counted.
            const int64_t key = least(first + n * teams + team, end - 1);
            float columns[kColumns];
            load_columns<T, kVectors>(columns, k + key * p.k_stride, a, member);
            load_columns<T, kVectors>(values[n], v + key * p.v_stride, a, member);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                scores[r][n] = 0.0f;
#pragma unroll
                for (int c = 0; c < kColumns; ++c) scores[r][n] += q[r][c] * columns[c];
            }
        }
        for (int bits = a.team / 2; bits; bits /= 2)
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
                for (int n = 0; n < kKeysAtOnce; ++n) scores[r][n] += __shfl_xor_sync(kAllLanes, scores[r][n], bits);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            float largest = sums[r].largest;
#pragma unroll
            for (int n = 0; n < kKeysAtOnce; ++n) {
                if (first + n * teams + team >= row_end[r]) scores[r][n] = -INFINITY;
                largest = fmaxf(largest, scores[r][n]);
            }
            const float shift = largest == -INFINITY ? 0.0f : largest;
            const float shrink = ptx::exp2_approximate(sums[r].largest - shift);
            sums[r].largest = largest;
            sums[r].sum *= shrink;
#pragma unroll
            for (int c = 0; c < kColumns; ++c) sums[r].out[c] *= shrink;
#pragma unroll
            for (int n = 0; n < kKeysAtOnce; ++n) {
                const float probability = ptx::exp2_approximate(scores[r][n] - shift);
                sums[r].sum += probability;
#pragma unroll
                for (int c = 0; c < kColumns; ++c) sums[r].out[c] += probability * values[n][c];
            }
        }
    }

    // Teams of a warp, then the first team of each warp through shared memory.
    LLMCORE_SHARED(float[kWarps][kColumns + 2][32], of_warps);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        for (int bits = a.team; bits < 32; bits *= 2) {
            Sums<kColumns> other;
            other.largest = __shfl_xor_sync(kAllLanes, sums[r].largest, bits);
            other.sum = __shfl_xor_sync(kAllLanes, sums[r].sum, bits);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) other.out[c] = __shfl_xor_sync(kAllLanes, sums[r].out[c], bits);
            combine(sums[r], other);
        }
        if (first_row + r >= rows) break;
        __syncthreads();  // the row before has been read
        if (lane < a.team) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) of_warps[warp][c][lane] = sums[r].out[c];
            of_warps[warp][kColumns][lane] = sums[r].largest;
            of_warps[warp][kColumns + 1][lane] = sums[r].sum;
        }
        __syncthreads();
        if (warp != 0 || lane >= a.team) continue;
        Sums<kColumns> total = sums[r];
        for (int w = 1; w < kWarps; ++w) {
            Sums<kColumns> other;
#pragma unroll
            for (int c = 0; c < kColumns; ++c) other.out[c] = of_warps[w][c][lane];
            other.largest = of_warps[w][kColumns][lane];
            other.sum = of_warps[w][kColumns + 1][lane];
            combine(total, other);
        }
        const int row = first_row + r, h = kv * group + row / Tq, i = row % Tq;
        float* partial = a.partial + (((b * p.NH + h) * Tq + i) * a.chunks + chunk) * (HS + 2);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const int column = (c / kPerVector<T> * a.team + member) * kPerVector<T> + c % kPerVector<T>;
            if (column < HS) partial[column] = total.out[c];
        }
        if (lane == 0) partial[HS] = total.largest, partial[HS + 1] = total.sum;
    }
}

// A warp for each row: the chunks one after another, every lane with some of the columns.
template <class T>
__global__ void __launch_bounds__(kThreads) combine_chunks_kernel(Decode<T> a) {
    const AttentionProblem& p = a.problem;
    const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;  // (b, h, i)
    if (row >= p.B * p.NH * p.Tq) return;
    const int HS = int(p.HS), lane = int(threadIdx.x) % 32, i = int(row % p.Tq);
    const int64_t head = row / p.Tq, b = head / p.NH, h = head % p.NH;
    const Visible visible = visible_keys(p, int(b));
    const int first = visible.begin / kChunk, last = (visible.end_of(i) + kChunk - 1) / kChunk;
    const float* partial = a.partial + row * a.chunks * (HS + 2);
    auto statistic = [&](int chunk, int which) { return partial[int64_t(chunk) * (HS + 2) + HS + which]; };

    float largest = -INFINITY, sum = 0.0f;
    for (int chunk = first; chunk < last; ++chunk) largest = fmaxf(largest, statistic(chunk, 0));
    const float shift = largest == -INFINITY ? 0.0f : largest;
    for (int chunk = first; chunk < last; ++chunk)
        sum += statistic(chunk, 1) * ptx::exp2_approximate(statistic(chunk, 0) - shift);
    T* out = a.out + (b * p.Tq + i) * p.NH * HS + h * HS;
    for (int column = lane; column < HS; column += 32) {
        float total = 0.0f;
        for (int chunk = first; chunk < last; ++chunk)
            total += partial[int64_t(chunk) * (HS + 2) + column] * ptx::exp2_approximate(statistic(chunk, 0) - shift);
        out[column] = from_float<T>(sum == 0.0f ? 0.0f : total / sum);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// launch

template <class T, int kRows, int kVectors>
void start(const Cuda& cuda, const Decode<T>& arguments) {
    const AttentionProblem& p = arguments.problem;
    const auto blocks = static_cast<unsigned>(p.B * p.NKV * arguments.chunks);
    const auto rows = static_cast<int>(p.NH / p.NKV * p.Tq);
    for (int first = 0; first < rows; first += kRows)
        launch({blocks, kThreads, 0, cuda.stream}, attention_decode_kernel<T, kRows, kVectors>, arguments, first);
}

template <class T, int kVectors>
void start_for_rows(const Cuda& cuda, const Decode<T>& arguments) {
    const int64_t rows = arguments.problem.NH / arguments.problem.NKV * arguments.problem.Tq;
    if (rows == 1)
        start<T, 1, kVectors>(cuda, arguments);
    else
        start<T, 4, kVectors>(cuda, arguments);
}

template <class T>
bool whole_vectors(const T* data, int64_t stride, int64_t HS) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kPerVector<T> == 0 && HS % kPerVector<T> == 0;
}

}  // namespace

template <class Backend, class T>
void attention_decode(Backend backend, T* out, const T* q, const T* k, const T* v, float* workspace,
                      const AttentionProblem& p) {
    if (p.B == 0 || p.Tq == 0) return;
    check_attention_sizes("attention_decode", p);
    const int64_t vectors = (p.HS + kPerVector<T> - 1) / kPerVector<T>;
    int team = 1;
    while (team < 32 && team < vectors) team *= 2;
    const bool whole =
        whole_vectors(q, p.q_stride, p.HS) && whole_vectors(k, p.k_stride, p.HS) && whole_vectors(v, p.v_stride, p.HS);
    const Decode<T> arguments{out,  q,    k, v, workspace, p, p.scale * kLog2E, static_cast<int>(chunks_of(p)),
                              team, whole};
    if (arguments.chunks > 0) {
        if (vectors <= 32)
            start_for_rows<T, 1>(backend, arguments);
        else if constexpr (kPerVector<T> == 4)
            start_for_rows<T, 2>(backend, arguments);
    }
    const auto blocks = static_cast<unsigned>(tiles_of_rows(p.B * p.NH * p.Tq, kWarps));
    launch({blocks, kThreads, 0, backend.stream}, combine_chunks_kernel<T>, arguments);
}

template <class Backend>
size_t attention_decode_workspace(Backend, const AttentionProblem& p) {
    return static_cast<size_t>(p.B * p.NH * p.Tq * chunks_of(p) * (p.HS + 2));
}

LLMCORE_INSTANTIATE(attention_decode, Cuda, float)
LLMCORE_INSTANTIATE(attention_decode, Cuda, bf16)
LLMCORE_INSTANTIATE(attention_decode_workspace, Cuda)

}  // namespace llmcore
