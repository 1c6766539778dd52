// Elementwise operations on CUDA: cuda/map.cuh with a function each.
#include <cstdint>
#include <type_traits>

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/map.cuh"
#include "kernels/elementwise.h"

namespace llmcore {
namespace {

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
__global__ void __launch_bounds__(kMapThreads) convert_kernel(int64_t n, To* y, const From* x) {
    for (int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kMapThreads)
        y[i] = from_number<To>(to_number(x[i]));
}

template <class T>
__global__ void __launch_bounds__(kMapThreads) fill_kernel(int64_t n, T* y, T value) {
    for (int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kMapThreads)
        y[i] = value;
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
        launch(map_shape(backend, n), convert_kernel<To, From>, n, y, x);
    else
        map(backend, Same{}, n, y, x);
}

template <class Backend, class T>
void fill(Backend backend, T* y, double value, int64_t n) {
    if (n > 0) launch(map_shape(backend, n), fill_kernel<T>, n, y, from_number<T>(value));
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
