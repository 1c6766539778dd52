// Elementwise operations on CUDA. Bound by memory: a thread takes eight elements at a time, in vectors of 16 bytes
// where all addresses allow it. An element is read by the thread that writes it, before it does, so y may be an input.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/launch.cuh"
#include "cuda/vec.cuh"
#include "kernels/elementwise.h"

namespace llmcore {
namespace {

constexpr int kThreads = 256, kChunk = 8;

// ----------------------------------------------------------------------------------------------------------------
// chunks of eight elements as floats; the last one may be shorter, and without vectors goes element by element

LLMCORE_DEVICE void load_chunk(float (&values)[kChunk], const bf16* x, int count, bool vectors) {
    if (vectors && count == kChunk) return load_vector(values, x);
    for (int i = 0; i < count; ++i) values[i] = to_float(x[i]);
}

LLMCORE_DEVICE void load_chunk(float (&values)[kChunk], const float* x, int count, bool vectors) {
    if (!vectors || count < kChunk) {
        for (int i = 0; i < count; ++i) values[i] = x[i];
        return;
    }
    float half[2][4];
    load_vector(half[0], x);
    load_vector(half[1], x + 4);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = half[i / 4][i % 4];
}

LLMCORE_DEVICE void store_chunk(bf16* y, const float (&values)[kChunk], int count, bool vectors) {
    if (vectors && count == kChunk) return store_vector(y, values);
    for (int i = 0; i < count; ++i) y[i] = to_bf16(values[i]);
}

LLMCORE_DEVICE void store_chunk(float* y, const float (&values)[kChunk], int count, bool vectors) {
    if (!vectors || count < kChunk) {
        for (int i = 0; i < count; ++i) y[i] = values[i];
        return;
    }
    float half[2][4];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) half[i / 4][i % 4] = values[i];
    store_vector(y, half[0]);
    store_vector(y + 4, half[1]);
}

// ----------------------------------------------------------------------------------------------------------------
// kernels

struct Add {
    LLMCORE_DEVICE float operator()(float a, float b) const { return a + b; }
};
struct Sub {
    LLMCORE_DEVICE float operator()(float a, float b) const { return a - b; }
};
struct Mul {
    LLMCORE_DEVICE float operator()(float a, float b) const { return a * b; }
};
struct Scale {
    float factor, offset;
    LLMCORE_DEVICE float operator()(float x) const { return x * factor + offset; }
};
struct Same {
    LLMCORE_DEVICE float operator()(float x) const { return x; }
};

// y[i] = f(a[i]) or f(a[i], b[i])
template <class F, class Y, class... Xs>
__global__ void __launch_bounds__(kThreads) map_kernel(F f, bool vectors, int64_t n, Y* y, const Xs*... xs) {
    const int64_t step = int64_t(gridDim.x) * kThreads * kChunk;
    for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kChunk; i < n; i += step) {
        const int count = n - i < kChunk ? int(n - i) : kChunk;
        float inputs[sizeof...(Xs)][kChunk] = {}, result[kChunk];
        int input = 0;
        (load_chunk(inputs[input++], xs + i, count, vectors), ...);
#pragma unroll
        for (int k = 0; k < kChunk; ++k) {
            if constexpr (sizeof...(Xs) == 1)
                result[k] = f(inputs[0][k]);
            else
                result[k] = f(inputs[0][k], inputs[1][k]);
        }
        store_chunk(y + i, result, count, vectors);
    }
}

template <class T>
LLMCORE_INLINE T from_number(double value) {
    return from_float<T>(static_cast<float>(value));
}
template <>
LLMCORE_INLINE int32_t from_number<int32_t>(double value) {
    if (value >= 2147483647.0) return INT32_MAX;
    if (value <= -2147483648.0) return INT32_MIN;
    return value == value ? static_cast<int32_t>(value) : 0;
}

LLMCORE_INLINE double to_number(int32_t value) {
    return value;
}
template <class T>
LLMCORE_INLINE double to_number(T value) {
    return to_float(value);
}

// To or from int32.
template <class To, class From>
__global__ void __launch_bounds__(kThreads) convert_kernel(int64_t n, To* y, const From* x) {
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads)
        y[i] = from_number<To>(to_number(x[i]));
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(int64_t n, T* y, T value) {
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads)
        y[i] = value;
}

// Enough blocks to fill the device once; each then goes on where the grid ends.
Launch shape_for(const Cuda& backend, int64_t items) {
    const int64_t blocks = std::clamp<int64_t>((items + kThreads - 1) / kThreads, 1, 8 * backend.multiprocessors);
    return {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, backend.stream};
}

template <class F, class Y, class... Xs>
void map(const Cuda& backend, F f, int64_t n, Y* y, const Xs*... xs) {
    if (n == 0) return;
    const bool vectors =
        reinterpret_cast<uintptr_t>(y) % 16 == 0 && ((reinterpret_cast<uintptr_t>(xs) % 16 == 0) && ...);
    launch(shape_for(backend, (n + kChunk - 1) / kChunk), map_kernel<F, Y, Xs...>, f, vectors, n, y, xs...);
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void add(Backend backend, T* y, const T* a, const T* b, int64_t n) {
    map(backend, Add{}, n, y, a, b);
}

template <class Backend, class T>
void sub(Backend backend, T* y, const T* a, const T* b, int64_t n) {
    map(backend, Sub{}, n, y, a, b);
}

template <class Backend, class T>
void mul(Backend backend, T* y, const T* a, const T* b, int64_t n) {
    map(backend, Mul{}, n, y, a, b);
}

template <class Backend, class T>
void scale(Backend backend, T* y, const T* x, float factor, float offset, int64_t n) {
    map(backend, Scale{factor, offset}, n, y, x);
}

template <class Backend, class T>
void add_into(Backend backend, float* y, const T* x, int64_t n) {
    map(backend, Add{}, n, y, static_cast<const float*>(y), x);
}

template <class Backend, class To, class From>
void cast(Backend backend, To* y, const From* x, int64_t n) {
    if (n == 0) return;
    if constexpr (std::is_same_v<To, From>)
        LLMCORE_CUDA_CHECK(cudaMemcpyAsync(y, x, n * sizeof(To), cudaMemcpyDeviceToDevice, backend.stream));
    else if constexpr (std::is_same_v<To, int32_t> || std::is_same_v<From, int32_t>)
        launch(shape_for(backend, n), convert_kernel<To, From>, n, y, x);
    else
        map(backend, Same{}, n, y, x);
}

template <class Backend, class T>
void fill(Backend backend, T* y, double value, int64_t n) {
    if (n > 0) launch(shape_for(backend, n), fill_kernel<T>, n, y, from_number<T>(value));
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(add, Cuda, float)
LLMCORE_INSTANTIATE(add, Cuda, bf16)
LLMCORE_INSTANTIATE(sub, Cuda, float)
LLMCORE_INSTANTIATE(sub, Cuda, bf16)
LLMCORE_INSTANTIATE(mul, Cuda, float)
LLMCORE_INSTANTIATE(mul, Cuda, bf16)
LLMCORE_INSTANTIATE(scale, Cuda, float)
LLMCORE_INSTANTIATE(scale, Cuda, bf16)
LLMCORE_INSTANTIATE(add_into, Cuda, float)
LLMCORE_INSTANTIATE(add_into, Cuda, bf16)
LLMCORE_INSTANTIATE(cast, Cuda, float, float)
LLMCORE_INSTANTIATE(cast, Cuda, float, bf16)
LLMCORE_INSTANTIATE(cast, Cuda, float, int32_t)
LLMCORE_INSTANTIATE(cast, Cuda, bf16, float)
LLMCORE_INSTANTIATE(cast, Cuda, bf16, bf16)
LLMCORE_INSTANTIATE(cast, Cuda, bf16, int32_t)
LLMCORE_INSTANTIATE(cast, Cuda, int32_t, float)
LLMCORE_INSTANTIATE(cast, Cuda, int32_t, bf16)
LLMCORE_INSTANTIATE(cast, Cuda, int32_t, int32_t)
LLMCORE_INSTANTIATE(fill, Cuda, float)
LLMCORE_INSTANTIATE(fill, Cuda, bf16)
LLMCORE_INSTANTIATE(fill, Cuda, int32_t)

}  // namespace llmcore
