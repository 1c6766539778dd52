// Rotary position embedding on CUDA: a block to a row, so that the tables' row is read once and then comes from the
// cache. A thread takes kUnit adjacent elements of the lower half of a head together with their partners, or kUnit
// elements that are only copied.
#include <cstdint>

#include "cuda/map.cuh"
#include "kernels/rope.h"

namespace llmcore {
namespace {

// kUnit elements as floats: whole vectors, or one element.
template <int kUnit, class T>
LLMCORE_DEVICE void load_unit(float (&values)[kUnit], const T* from) {
    if constexpr (kUnit == 1) {
        values[0] = to_float(*from);
    } else {
        constexpr int kPer = kPerVector<T>;
#pragma unroll
        for (int first = 0; first < kUnit; first += kPer) {
            float part[kPer];
            load_vector(part, from + first);
#pragma unroll
            for (int i = 0; i < kPer; ++i) values[first + i] = part[i];
        }
    }
}

template <int kUnit, class T>
LLMCORE_DEVICE void store_unit(T* to, const float (&values)[kUnit]) {
    if constexpr (kUnit == 1)
        *to = from_float<T>(values[0]);
    else
        store_vector(to, values);
}

// sign 1 rotates, -1 rotates back.
template <class T, int kUnit>
__global__ void __launch_bounds__(kMapThreads) rope_kernel(T* y, const T* x, RopeProblem p, float sign) {
    const int64_t half = p.half, width = p.heads * p.HS;
    const int per_head = int((p.HS - half) / kUnit);  // pairs, then what follows the pairs
    const int turning = int(p.rotated) * per_head, all = turning + int((p.heads - p.rotated) * p.HS / kUnit);
    for (int64_t n = blockIdx.x; n < p.N; n += gridDim.x) {
        const int64_t position = p.positions != nullptr ? p.positions[n] : n % p.T;
        const bool inside = position >= 0 && position < p.P;
        const float* cos_row = p.cos_table + (inside ? position * half : 0);
        const float* sin_row = p.sin_table + (inside ? position * half : 0);
        for (int item = int(threadIdx.x); item < all; item += kMapThreads) {
            const int head = item / per_head, i = item % per_head * kUnit;
            const bool pair = item < turning && i < half;
            // In a head the second halves of its pairs come before what is copied; heads that are not rotated come
            // last.
            const int64_t in_row = item < turning ? head * p.HS + (pair ? i : i + half)
                                                  : p.rotated * p.HS + int64_t(item - turning) * kUnit;
            const int64_t first = n * width + in_row;
            float low[kUnit], high[kUnit];
            load_unit(low, x + first);
            if (pair) {
                load_unit(high, x + first + half);
                if (inside) {
                    float c[kUnit], s[kUnit];
                    load_unit(c, cos_row + i);
                    load_unit(s, sin_row + i);
#pragma unroll
                    for (int k = 0; k < kUnit; ++k) {
                        const float turned = low[k] * c[k] - high[k] * (s[k] * sign);
                        high[k] = high[k] * c[k] + low[k] * (s[k] * sign);
                        low[k] = turned;
                    }
                }
                store_unit(y + first + half, high);
            }
            store_unit(y + first, low);
        }
    }
}

template <class T>
void rotate(const Cuda& backend, T* y, const T* x, const RopeProblem& p, float sign) {
    if (p.N == 0) return;
    constexpr int kPer = kPerVector<T>;
    const bool vectors = p.half % kPer == 0 && p.HS % kPer == 0 && on_vectors(y) && on_vectors(x) &&
                         on_vectors(p.cos_table) && on_vectors(p.sin_table);
    const Launch shape = map_shape(backend, p.N * kMapThreads);
    if (vectors)
        launch(shape, rope_kernel<T, kPer>, y, x, p, sign);
    else
        launch(shape, rope_kernel<T, 1>, y, x, p, sign);
}

}  // namespace

template <class Backend, class T>
void rope_forward(Backend backend, T* y, const T* x, const RopeProblem& problem) {
    rotate(backend, y, x, problem, 1.0f);
}

template <class Backend, class T>
void rope_backward(Backend backend, T* dx, const T* dy, const RopeProblem& problem) {
    rotate(backend, dx, dy, problem, -1.0f);
}

LLMCORE_INSTANTIATE(rope_forward, Cuda, float)
LLMCORE_INSTANTIATE(rope_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(rope_backward, Cuda, float)
LLMCORE_INSTANTIATE(rope_backward, Cuda, bf16)

}  // namespace llmcore
