// Layer normalisation on CUDA. Bound by memory: a row is read once, in vectors of 16 bytes, and stays in registers
// until its result has been written. Mean and variance take two passes over the registers (E[x^2] - E[x]^2 would
// cancel).
//
// A block of 8 warps is cut into teams of kWarps warps. A team takes a row, kVectors vectors per thread, and then the
// row one grid further on. Threads beyond the end of the row hold nothing; taken for zeros they would add mean^2 each
// to the variance. Rows that are no multiple of a vector, longer than a team can hold, or not aligned are the business
// of the kernels named `any`, which go element by element and read the row again in each pass.
//
// Backward: with n = (x - mean) * rstd and g = dy * weight, dx = rstd * (g - mean(g) - n * mean(g * n)). The gradients
// of weight and bias are the column sums of dy * n and dy. Threads add up their columns in registers over all rows of
// theirs, a block's teams add up in shared memory one after another, and a second kernel adds up the blocks in their
// order: no atomics, and the same bits every time.
#include <algorithm>
#include <cstdint>

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/launch.cuh"
#include "cuda/row_team.cuh"
#include "kernels/layernorm.h"

namespace llmcore {
namespace {

constexpr int kBlockWarps = 8, kBlockThreads = kBlockWarps * 32;

// ----------------------------------------------------------------------------------------------------------------
// forward

template <class T>
struct Forward {
    T *y, *sum;
    float *mean, *rstd;
    const T *x, *residual, *weight, *bias;
    int64_t N, C;
    float epsilon;
};

template <class T, int kWarps, int kVectors>
__global__ void __launch_bounds__(kBlockThreads) forward_kernel(Forward<T> a) {
    constexpr int kTeams = kBlockWarps / kWarps, kPer = kPerVector<T>;
    LLMCORE_SHARED(float[2][kTeams][kWarps], partial);
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

        float total = 0.0f;
        part.for_each([&](int v, int64_t) {
            unpack(row[v], value);
            for_elements<kPer>([&](int i) { total += value[i]; });
        });
        const float mean = team_sum<kWarps>(total, partial[0][team]) * per_row;

        float squares = 0.0f;
        part.for_each([&](int v, int64_t) {
            unpack(row[v], value);
            for_elements<kPer>([&](int i) { squares += (value[i] - mean) * (value[i] - mean); });
        });
        const float rstd = rsqrtf(team_sum<kWarps>(squares, partial[1][team]) * per_row + a.epsilon);

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

template <class T>
__global__ void __launch_bounds__(kBlockThreads) forward_any_kernel(Forward<T> a) {
    LLMCORE_SHARED(float[2][kBlockWarps], partial);
    const float per_row = 1.0f / float(a.C);
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
        const T* x = a.x + n * a.C;
        if (a.residual != nullptr) {
            for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads)
                a.sum[n * a.C + c] = from_float<T>(to_float(x[c]) + to_float(a.residual[n * a.C + c]));
            x = a.sum + n * a.C;  // every thread reads what it wrote itself
        }
        float total = 0.0f, squares = 0.0f;
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads) total += to_float(x[c]);
        const float mean = team_sum<kBlockWarps>(total, partial[0]) * per_row;
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads)
            squares += (to_float(x[c]) - mean) * (to_float(x[c]) - mean);
        const float rstd = rsqrtf(team_sum<kBlockWarps>(squares, partial[1]) * per_row + a.epsilon);

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
struct Backward {
    T* dx;
    float* partial;  // (blocks, 2, C): the sums of dy * n and of dy over each block's rows
    const T *dy, *dsum, *x, *weight;
    const float *mean, *rstd;
    int64_t N, C;
};

template <class T, int kWarps, int kVectors>
__global__ void __launch_bounds__(kBlockThreads, 2) backward_kernel(Backward<T> a) {
    constexpr int kTeams = kBlockWarps / kWarps, kPer = kPerVector<T>;
    LLMCORE_SHARED(float[2][kTeams][kWarps], partial);
    const TeamPart<T, kWarps, kVectors> part(a.C);
    const int team = part.team();
    const float per_row = 1.0f / float(a.C);
    float dweight[kVectors][kPer] = {}, dbias[kVectors][kPer] = {};
    for (int64_t first = int64_t(blockIdx.x) * kTeams; first < a.N; first += int64_t(gridDim.x) * kTeams) {
        const int64_t n = first + team;
        const bool active = n < a.N;
        const float mean = active ? a.mean[n] : 0.0f, rstd = active ? a.rstd[n] : 0.0f;
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
                g_total += g;
                gn_total += g * normalised;
                dweight[v][i] += dy[i] * normalised;
                dbias[v][i] += dy[i];
            });
        });
        const float g_mean = team_sum<kWarps>(g_total, partial[0][team]) * per_row;
        const float gn_mean = team_sum<kWarps>(gn_total, partial[1][team]) * per_row;

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
    for (int turn = 0; turn < kTeams; ++turn) {
        if (team == turn)
            part.for_each([&](int v, int64_t c) {
                for_elements<kPer>([&](int i) {
                    sums[c + i] = turn == 0 ? dweight[v][i] : sums[c + i] + dweight[v][i];
                    sums[a.C + c + i] = turn == 0 ? dbias[v][i] : sums[a.C + c + i] + dbias[v][i];
                });
            });
        __syncthreads();
    }
    for (int64_t c = threadIdx.x; c < 2 * a.C; c += kBlockThreads) a.partial[blockIdx.x * 2 * a.C + c] = sums[c];
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads) backward_any_kernel(Backward<T> a) {
    LLMCORE_SHARED(float[2][kBlockWarps], partial);
    const float per_row = 1.0f / float(a.C);
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
        const T *dy = a.dy + n * a.C, *x = a.x + n * a.C;
        const float mean = a.mean[n], rstd = a.rstd[n];
        float g_total = 0.0f, gn_total = 0.0f;
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads) {
            const float g = to_float(dy[c]) * to_float(a.weight[c]);
            g_total += g;
            gn_total += g * (to_float(x[c]) - mean) * rstd;
        }
        const float g_mean = team_sum<kBlockWarps>(g_total, partial[0]) * per_row;
        const float gn_mean = team_sum<kBlockWarps>(gn_total, partial[1]) * per_row;
        for (int64_t c = threadIdx.x; c < a.C; c += kBlockThreads) {
            const float normalised = (to_float(x[c]) - mean) * rstd, g = to_float(dy[c]) * to_float(a.weight[c]);
            const float value = rstd * (g - g_mean - normalised * gn_mean);
            a.dx[n * a.C + c] = from_float<T>(a.dsum != nullptr ? value + to_float(a.dsum[n * a.C + c]) : value);
        }
    }
}

// The column sums of any rows: a thread per column, and blocks of rows along y.
template <class T>
__global__ void __launch_bounds__(kBlockThreads) column_sums_any_kernel(Backward<T> a) {
    const int64_t c = int64_t(blockIdx.x) * kBlockThreads + threadIdx.x;
    if (c >= a.C) return;
    float dweight = 0.0f, dbias = 0.0f;
    for (int64_t n = blockIdx.y; n < a.N; n += gridDim.y) {
        const float dy = to_float(a.dy[n * a.C + c]);
        dweight += dy * (to_float(a.x[n * a.C + c]) - a.mean[n]) * a.rstd[n];
        dbias += dy;
    }
    a.partial[blockIdx.y * 2 * a.C + c] = dweight;
    a.partial[(blockIdx.y * 2 + 1) * a.C + c] = dbias;
}

constexpr int kAddWarps = 16;

// dweight (C) and dbias (C) += the blocks' sums. A warp adds up every 16th block for 32 columns, then the first warp
// adds up the warps.
__global__ void __launch_bounds__(kAddWarps * 32)
    add_partial_kernel(float* dweight, float* dbias, const float* partial, int64_t blocks, int64_t C) {
    LLMCORE_SHARED(float[kAddWarps][32], sums);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int64_t c = int64_t(blockIdx.x) * 32 + lane;
    float sum = 0.0f;
    if (c < 2 * C)
        for (int64_t block = warp; block < blocks; block += kAddWarps) sum += partial[block * 2 * C + c];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= 2 * C) return;
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

unsigned blocks_for(int64_t items, int64_t most) {
    return static_cast<unsigned>(std::clamp<int64_t>(items, 1, most));
}

// Two blocks of 8 warps keep a multiprocessor's memory busy, and more would only leave more sums to add up.
int64_t most_backward_blocks(const Cuda& backend, int64_t N) {
    return std::clamp<int64_t>(N, 1, 2 * backend.multiprocessors);
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void layernorm_forward(Backend backend, T* y, T* sum, float* mean, float* rstd, const T* x, const T* residual,
                       const T* weight, const T* bias, int64_t N, int64_t C, float epsilon) {
    if (N == 0) return;
    const Forward<T> arguments{y, sum, mean, rstd, x, residual, weight, bias, N, C, epsilon};
    const int64_t vectors = vectors_of_row<T>(C, y, sum, x, residual, weight, bias);
    const int64_t most = 8 * backend.multiprocessors;
    const bool launched = with_shape<8>(vectors, [&](auto shape) {
        const unsigned blocks = blocks_for((N + shape.teams - 1) / shape.teams, most);
        launch({dim3(blocks), dim3(kBlockThreads), 0, backend.stream}, forward_kernel<T, shape.warps, shape.vectors>,
               arguments);
    });
    if (!launched)
        launch({dim3(blocks_for(N, most)), dim3(kBlockThreads), 0, backend.stream}, forward_any_kernel<T>, arguments);
}

template <class Backend, class T>
void layernorm_backward(Backend backend, T* dx, float* dweight, float* dbias, const T* dy, const T* dsum, const T* x,
                        const T* weight, const float* mean, const float* rstd, float* workspace, int64_t N, int64_t C) {
    if (N == 0) return;
    const Backward<T> arguments{dx, workspace, dy, dsum, x, weight, mean, rstd, N, C};
    const int64_t vectors = vectors_of_row<T>(C, dx, dy, dsum, x, weight);
    const int64_t most = most_backward_blocks(backend, N);
    unsigned blocks = 0;
    const bool launched = with_shape<4>(vectors, [&](auto shape) {
        blocks = blocks_for((N + shape.teams - 1) / shape.teams, most);
        launch({dim3(blocks), dim3(kBlockThreads), 2 * C * sizeof(float), backend.stream},
               backward_kernel<T, shape.warps, shape.vectors>, arguments);
    });
    if (!launched) {
        blocks = blocks_for(N, most);
        launch({dim3(blocks), dim3(kBlockThreads), 0, backend.stream}, backward_any_kernel<T>, arguments);
        if (dweight == nullptr && dbias == nullptr) return;
        const auto across = static_cast<unsigned>((C + kBlockThreads - 1) / kBlockThreads);
        launch({dim3(across, blocks), dim3(kBlockThreads), 0, backend.stream}, column_sums_any_kernel<T>, arguments);
    }
    if (dweight == nullptr && dbias == nullptr) return;
    launch({dim3(static_cast<unsigned>((2 * C + 31) / 32)), dim3(kAddWarps * 32), 0, backend.stream},
           add_partial_kernel, dweight, dbias, workspace, int64_t{blocks}, C);
}

template <class Backend>
size_t layernorm_backward_workspace(Backend backend, int64_t N, int64_t C) {
    return static_cast<size_t>(most_backward_blocks(backend, N) * 2 * C);
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(layernorm_forward, Cuda, float)
LLMCORE_INSTANTIATE(layernorm_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(layernorm_backward, Cuda, float)
LLMCORE_INSTANTIATE(layernorm_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(layernorm_backward_workspace, Cuda)

}  // namespace llmcore
