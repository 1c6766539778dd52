// Layer and root-mean-square normalisation on CUDA: one set of kernels, for a row that is centred first (kCentred,
// layer normalisation, which has a bias, too) or is not. Bound by memory: a row is read once, in vectors of 16 bytes,
// and stays in registers until its result has been written. Mean and variance take two passes over the registers
// (E[x^2] - E[x]^2 would cancel).
//
// A block of 8 warps is cut into teams of kWarps warps. A team takes a row, kVectors vectors per thread, and then the
// row one grid further on. Threads beyond the end of the row hold nothing; taken for zeros they would add mean^2 each
// to the variance. Rows that are no multiple of a vector, longer than a team can hold, or not aligned are the business
// of the kernels named `any`, which go element by element and read the row again in each pass.
//
// Backward: with n = (x - mean) * rstd and g = dy * weight, dx = rstd * (g - mean(g) - n * mean(g * n)), where mean and
// mean(g) are zero if rows are not centred. The gradients of weight and bias are the column sums of dy * n and dy.
// Threads add up their columns in registers over all rows of theirs, a block's teams add up in shared memory one after
// another, and a second kernel adds up the blocks in their order: no atomics, and the same bits every time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"

namespace llmcore {

constexpr int kBlockWarps = 8, kBlockThreads = kBlockWarps * 32;

// Column sums of the backward pass: for the gradients of weight and bias, or of weight alone.
template <bool kCentred>
constexpr int kSums = kCentred ? 2 : 1;

// ----------------------------------------------------------------------------------------------------------------
// forward

template <class T>
struct NormForward {
    T *y, *sum;
    float *mean, *rstd;
    const T *x, *residual, *weight, *bias;
    int64_t N, C;
    float epsilon;
};

template <class T, bool kCentred, int kWarps, int kVectors>
__global__ void __launch_bounds__(kBlockThreads) norm_forward_kernel(NormForward<T> a) {
    constexpr int kTeams = kBlockWarps / kWarps, kPer = kPerVector<T>;
    LLMCORE_SHARED(float[2][kTeams][kWarps], partial);
    unsigned turn = 0;  // of the two arrays: the next sum must not take the one that is still read
    const TeamPart<T, kWarps, kVectors> part(a.C);
    const int team = part.team();
    const float per_row = 1.0f / float(a.C);
    // All teams of a block go round equally often, because they meet at barriers; one beyond the last row does nothing.
    for (int64_t first = int64_t(blockIdx.x) * kTeams; first < a.N; first += int64_t(gridDim.x) * kTeams) {
        const int64_t n = first + team;
        const bool active = n < a.N;
        float value[kPer], other[kPer];
        ptx::Words row[kVectors] = {};
        if (active) {
            part.load(row, a.x + n * a.C);
            if (a.residual != nullptr) {
                ptx::Words residual[kVectors] = {};
                part.load(residual, a.residual + n * a.C);
                part.for_each([&](int v, int64_t c) {
                    unpack(row[v], value);
                    unpack(residual[v], other);
                    for_elements<kPer>([&](int i) { value[i] += other[i]; });
                    row[v] = pack(value);  // as stored, so that forward and backward see the same rounding
                    ptx::store_words(a.sum + n * a.C + c, row[v]);
                });
            }
        }

        float mean = 0.0f;
        if constexpr (kCentred) {
            float total = 0.0f;
            part.for_each([&](int v, int64_t) {
                unpack(row[v], value);
                for_elements<kPer>([&](int i) { total += value[i]; });
            });
            mean = team_sum<kWarps>(total, partial[turn++ % 2][team]) * per_row;
        }

        float squares = 0.0f;
        part.for_each([&](int v, int64_t) {
            unpack(row[v], value);
            for_elements<kPer>([&](int i) { squares += (value[i] - mean) * (value[i] - mean); });
        });
        const float rstd = rsqrtf(team_sum<kWarps>(squares, partial[turn++ % 2][team]) * per_row + a.epsilon);

        if (!active) continue;
        if (part.is_first() && a.mean != nullptr) a.mean[n] = mean;
        if (part.is_first() && a.rstd != nullptr) a.rstd[n] = rstd;
        part.for_each([&](int v, int64_t c) {
            unpack(row[v], value);
            load_vector(other, a.weight + c);
            for_elements<kPer>([&](int i) { value[i] = (value[i] - mean) * rstd * other[i]; });
            if (a.bias != nullptr) {
                load_vector(other, a.bias + c);
                for_elements<kPer>([&](int i) { value[i] += other[i]; });
            }
            store_vector(a.y + n * a.C + c, value);
        });
    }
}

template <class T, bool kCentred>
__global__ void __launch_bounds__(kBlockThreads) norm_forward_any_kernel(NormForward<T> a) {
    LLMCORE_SHARED(float[2][kBlockWarps], partial);
    unsigned turn = 0;
    const float per_row = 1.0f / float(a.C);
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
        const T* x = a.x + n * a.C;
        if (a.residual != nullptr) {
            for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads)
                a.sum[n * a.C + c] = from_float<T>(to_float(x[c]) + to_float(a.residual[n * a.C + c]));
            x = a.sum + n * a.C;  // every thread reads what it wrote itself
        }
        float mean = 0.0f, total = 0.0f, squares = 0.0f;
        if constexpr (kCentred) {
            for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads) total += to_float(x[c]);
            mean = team_sum<kBlockWarps>(total, partial[turn++ % 2]) * per_row;
        }
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads)
            squares += (to_float(x[c]) - mean) * (to_float(x[c]) - mean);
        const float rstd = rsqrtf(team_sum<kBlockWarps>(squares, partial[turn++ % 2]) * per_row + a.epsilon);

        if (threadIdx.x == 0 && a.mean != nullptr) a.mean[n] = mean;
        if (threadIdx.x == 0 && a.rstd != nullptr) a.rstd[n] = rstd;
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads) {
            const float value = (to_float(x[c]) - mean) * rstd * to_float(a.weight[c]);
            a.y[n * a.C + c] = from_float<T>(a.bias != nullptr ? value + to_float(a.bias[c]) : value);
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------
// backward

template <class T>
struct NormBackward {
    T* dx;
    float* partial;  // (blocks, C or 2 * C): the sums of dy * n, then of dy, over each block's rows
    const T *dy, *dsum, *x, *weight;
    const float *mean, *rstd;
    int64_t N, C;
};

template <class T, bool kCentred, int kWarps, int kVectors>
__global__ void __launch_bounds__(kBlockThreads, 2) norm_backward_kernel(NormBackward<T> a) {
    constexpr int kTeams = kBlockWarps / kWarps, kPer = kPerVector<T>;
    LLMCORE_SHARED(float[2][kTeams][kWarps], partial);
    unsigned turn = 0;  // of the two arrays: the next sum must not take the one that is still read
    const TeamPart<T, kWarps, kVectors> part(a.C);
    const int team = part.team();
    const float per_row = 1.0f / float(a.C);
    float dweight[kVectors][kPer] = {}, dbias[kCentred ? kVectors : 1][kPer] = {};
    for (int64_t first = int64_t(blockIdx.x) * kTeams; first < a.N; first += int64_t(gridDim.x) * kTeams) {
        const int64_t n = first + team;
        const bool active = n < a.N;
        const float mean = kCentred && active ? a.mean[n] : 0.0f, rstd = active ? a.rstd[n] : 0.0f;
        ptx::Words dy_row[kVectors] = {}, x_row[kVectors] = {};  // zeros, which add nothing to any of the sums
        if (active) {
            part.load(dy_row, a.dy + n * a.C);
            part.load(x_row, a.x + n * a.C);
        }

        float dy[kPer], x[kPer], weight[kPer];
        float g_total = 0.0f, gn_total = 0.0f;
        part.for_each([&](int v, int64_t c) {
            unpack(dy_row[v], dy);
            unpack(x_row[v], x);
            load_vector(weight, a.weight + c);
            for_elements<kPer>([&](int i) {
                const float normalised = (x[i] - mean) * rstd, g = dy[i] * weight[i];
                gn_total += g * normalised;
                dweight[v][i] += dy[i] * normalised;
                if constexpr (kCentred) {
                    g_total += g;
                    dbias[v][i] += dy[i];
                }
            });
        });
        float g_mean = 0.0f;
        if constexpr (kCentred) g_mean = team_sum<kWarps>(g_total, partial[turn++ % 2][team]) * per_row;
        const float gn_mean = team_sum<kWarps>(gn_total, partial[turn++ % 2][team]) * per_row;

        if (!active) continue;
        part.for_each([&](int v, int64_t c) {
            unpack(dy_row[v], dy);
            unpack(x_row[v], x);
            load_vector(weight, a.weight + c);
            for_elements<kPer>([&](int i) {
                const float normalised = (x[i] - mean) * rstd, g = dy[i] * weight[i];
                dy[i] = rstd * (g - g_mean - normalised * gn_mean);
            });
            if (a.dsum != nullptr) {
                load_vector<ptx::Cache::kStreaming>(x, a.dsum + n * a.C + c);
                for_elements<kPer>([&](int i) { dy[i] += x[i]; });
            }
            store_vector(a.dx + n * a.C + c, dy);
        });
    }

    // One team after another adds its sums; then the block writes them out.
    float* sums = shared_memory<float>();
    for (int adding = 0; adding < kTeams; ++adding) {
        if (team == adding)
            part.for_each([&](int v, int64_t c) {
                for_elements<kPer>([&](int i) {
                    sums[c + i] = adding == 0 ? dweight[v][i] : sums[c + i] + dweight[v][i];
                    if constexpr (kCentred)
                        sums[a.C + c + i] = adding == 0 ? dbias[v][i] : sums[a.C + c + i] + dbias[v][i];
                });
            });
        __syncthreads();
    }
    const int64_t columns = kSums<kCentred> * a.C;
    for (int64_t c = threadIdx.x; c < columns; c += kBlockThreads) a.partial[blockIdx.x * columns + c] = sums[c];
}

template <class T, bool kCentred>
__global__ void __launch_bounds__(kBlockThreads) norm_backward_any_kernel(NormBackward<T> a) {
    LLMCORE_SHARED(float[2][kBlockWarps], partial);
    unsigned turn = 0;
    const float per_row = 1.0f / float(a.C);
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
        const T *dy = a.dy + n * a.C, *x = a.x + n * a.C;
        const float mean = kCentred ? a.mean[n] : 0.0f, rstd = a.rstd[n];
        float g_total = 0.0f, gn_total = 0.0f;
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads) {
            const float g = to_float(dy[c]) * to_float(a.weight[c]);
            g_total += g;
            gn_total += g * (to_float(x[c]) - mean) * rstd;
        }
        float g_mean = 0.0f;
        if constexpr (kCentred) g_mean = team_sum<kBlockWarps>(g_total, partial[turn++ % 2]) * per_row;
        const float gn_mean = team_sum<kBlockWarps>(gn_total, partial[turn++ % 2]) * per_row;
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads) {
            const float normalised = (to_float(x[c]) - mean) * rstd, g = to_float(dy[c]) * to_float(a.weight[c]);
            const float value = rstd * (g - g_mean - normalised * gn_mean);
            a.dx[n * a.C + c] = from_float<T>(a.dsum != nullptr ? value + to_float(a.dsum[n * a.C + c]) : value);
        }
    }
}

// The column sums of any rows: a thread per column, and blocks of rows along y.
template <class T, bool kCentred>
__global__ void __launch_bounds__(kBlockThreads) norm_column_sums_any_kernel(NormBackward<T> a) {
    const int64_t c = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
    if (c >= a.C) return;
    float dweight = 0.0f, dbias = 0.0f;
    for (int64_t n = blockIdx.y; n < a.N; n += gridDim.y) {
        const float dy = to_float(a.dy[n * a.C + c]);
        dweight += dy * (to_float(a.x[n * a.C + c]) - (kCentred ? a.mean[n] : 0.0f)) * a.rstd[n];
        dbias += dy;
    }
    float* sums = a.partial + int64_t(blockIdx.y) * kSums<kCentred> * a.C;
    sums[c] = dweight;
    if constexpr (kCentred) sums[a.C + c] = dbias;
}

constexpr int kAddWarps = 16;

// dweight (C) and dbias (C) += the blocks' sums. A warp adds up every 16th block for 32 columns, then the first warp
// adds up the warps.
template <bool kCentred>
__global__ void __launch_bounds__(kAddWarps * 32)
    norm_add_partial_kernel(float* dweight, float* dbias, const float* partial, int64_t blocks, int64_t C) {
    LLMCORE_SHARED(float[kAddWarps][32], sums);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int64_t c = int64_t(blockIdx.x) * 32 + lane;
    const int64_t columns = kSums<kCentred> * C;
    float sum = 0.0f;
    if (c < columns)
        for (int64_t block = warp; block < blocks; block += kAddWarps) sum += partial[block * columns + c];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= columns) return;
    for (int other = 1; other < kAddWarps; ++other) sum += sums[other][lane];
    float* total = c < C ? dweight : dbias;
    if (total != nullptr) total[c < C ? c : c - C] += sum;
}

// ----------------------------------------------------------------------------------------------------------------
// which kernel

// Vectors of a row, or 0 where it has to go element by element.
template <class T, class... Pointers>
int64_t vectors_of_row(int64_t C, const Pointers*... rows) {
    const bool aligned = ((reinterpret_cast<uintptr_t>(rows) % 16 == 0) && ...);
    return aligned && C % kPerVector<T> == 0 ? C / kPerVector<T> : 0;
}

template <int kWarps, int kVectors>
struct Shape {
    static constexpr int warps = kWarps, vectors = kVectors, teams = kBlockWarps / kWarps;
};

// Calls launch_for(Shape) with the smallest team that holds the row; false if none does.
template <int kMaxVectors, class F>
bool with_shape(int64_t vectors, F&& launch_for) {
    if (vectors == 0 || vectors > kBlockThreads * kMaxVectors) return false;
    if (vectors <= 32)
        launch_for(Shape<1, 1>{});
    else if (vectors <= 64)
        launch_for(Shape<1, 2>{});
    else if (vectors <= 96)
        launch_for(Shape<1, 3>{});
    else if (vectors <= 128)
        launch_for(Shape<1, 4>{});
    else if (vectors <= 256)
        launch_for(Shape<4, 2>{});
    else if (vectors <= 512)
        launch_for(Shape<4, 4>{});
    else
        launch_for(Shape<8, kMaxVectors>{});
    return true;
}

inline unsigned blocks_for(int64_t items, int64_t most) {
    return static_cast<unsigned>(std::clamp<int64_t>(items, 1, most));
}

// Two blocks of 8 warps keep a multiprocessor's memory busy, and more would only leave more sums to add up.
inline int64_t most_backward_blocks(const Cuda& backend, int64_t N) {
    return std::clamp<int64_t>(N, 1, 2 * backend.multiprocessors);
}

// --------------------------------------------------------------------------------------------------------------
// launchers

template <bool kCentred, class T>
void launch_norm_forward(const Cuda& backend, const NormForward<T>& a) {
    if (a.N == 0) return;
    const int64_t vectors = vectors_of_row<T>(a.C, a.y, a.sum, a.x, a.residual, a.weight, a.bias);
    const int64_t most = 8 * backend.multiprocessors;
    const bool launched = with_shape<8>(vectors, [&](auto shape) {
        const unsigned blocks = blocks_for((a.N + shape.teams - 1) / shape.teams, most);
        launch({dim3(blocks), dim3(kBlockThreads), 0, backend.stream},
               norm_forward_kernel<T, kCentred, shape.warps, shape.vectors>, a);
    });
    if (!launched)
        launch({dim3(blocks_for(a.N, most)), dim3(kBlockThreads), 0, backend.stream},
               norm_forward_any_kernel<T, kCentred>, a);
}

template <bool kCentred, class T>
void launch_norm_backward(const Cuda& backend, const NormBackward<T>& a, float* dweight, float* dbias) {
    if (a.N == 0) return;
    constexpr int64_t sums = kSums<kCentred>;
    const int64_t vectors = vectors_of_row<T>(a.C, a.dx, a.dy, a.dsum, a.x, a.weight);
    const int64_t most = most_backward_blocks(backend, a.N);
    unsigned blocks = 0;
    const bool launched = with_shape<4>(vectors, [&](auto shape) {
        blocks = blocks_for((a.N + shape.teams - 1) / shape.teams, most);
        launch({dim3(blocks), dim3(kBlockThreads), sums * a.C * sizeof(float), backend.stream},
               norm_backward_kernel<T, kCentred, shape.warps, shape.vectors>, a);
    });
    if (!launched) {
        blocks = blocks_for(a.N, most);
        launch({dim3(blocks), dim3(kBlockThreads), 0, backend.stream}, norm_backward_any_kernel<T, kCentred>, a);
        if (dweight == nullptr && dbias == nullptr) return;
        const auto across = static_cast<unsigned>((a.C + kBlockThreads - 1) / kBlockThreads);
        launch({dim3(across, blocks), dim3(kBlockThreads), 0, backend.stream}, norm_column_sums_any_kernel<T, kCentred>,
               a);
    }
    if (dweight == nullptr && dbias == nullptr) return;
    launch({dim3(static_cast<unsigned>((sums * a.C + 31) / 32)), dim3(kAddWarps * 32), 0, backend.stream},
           norm_add_partial_kernel<kCentred>, dweight, dbias, static_cast<const float*>(a.partial), int64_t{blocks},
           a.C);
}

template <bool kCentred>
size_t norm_backward_workspace(const Cuda& backend, int64_t N, int64_t C) {
    return static_cast<size_t>(most_backward_blocks(backend, N) * kSums<kCentred> * C);
}

}  // namespace llmcore
