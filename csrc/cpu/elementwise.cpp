// Elementwise operations on the CPU: pieces of a fixed size, each on one thread.
#include "kernels/elementwise.h"

#include <cstring>
#include <type_traits>

#include "core/thread_pool.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements: 128 KiB of float, some 5 us of memory traffic, well above a wake-up

// ----------------------------------------------------------------------------------------------------------------
// kernels

// y[i] = f(a[i], b[i])
template <class T, class F>
LLMCORE_INLINE void map(T* y, const T* a, const T* b, int64_t n, const F& f) {
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        for_each_vector(end - begin, [&](auto at) { at.store(y + begin, f(at.load(a + begin), at.load(b + begin))); });
    });
}

LLMCORE_INLINE double to_number(float value) {
    return value;
}
LLMCORE_INLINE double to_number(bf16 value) {
    return to_float(value);
}
LLMCORE_INLINE double to_number(int32_t value) {
    return value;
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

template <class To, class From>
LLMCORE_INLINE void cast_piece(To* y, const From* x, int64_t n) {
    if constexpr (std::is_same_v<To, From>) {
        std::memcpy(y, x, n * sizeof(To));
    } else if constexpr (std::is_same_v<To, int32_t> || std::is_same_v<From, int32_t>) {
        for (int64_t i = 0; i < n; ++i) y[i] = from_number<To>(to_number(x[i]));
    } else {
        for_each_vector(n, [&](auto at) { at.store(y, at.load(x)); });
    }
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void add(Backend, T* y, const T* a, const T* b, int64_t n) {
    map(y, a, b, n, [](Vec u, Vec v) { return u + v; });
}

template <class Backend, class T>
void sub(Backend, T* y, const T* a, const T* b, int64_t n) {
    map(y, a, b, n, [](Vec u, Vec v) { return u - v; });
}

template <class Backend, class T>
void mul(Backend, T* y, const T* a, const T* b, int64_t n) {
    map(y, a, b, n, [](Vec u, Vec v) { return u * v; });
}

template <class Backend, class T>
void scale(Backend, T* y, const T* x, float factor, float offset, int64_t n) {
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        for_each_vector(end - begin, [&](auto at) { at.store(y + begin, at.load(x + begin) * factor + offset); });
    });
}

template <class Backend, class T>
void add_into(Backend, float* y, const T* x, int64_t n) {
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        for_each_vector(end - begin, [&](auto at) { at.store(y + begin, at.load(y + begin) + at.load(x + begin)); });
    });
}

template <class Backend, class To, class From>
void cast(Backend, To* y, const From* x, int64_t n) {
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) { cast_piece(y + begin, x + begin, end - begin); });
}

template <class Backend, class T>
void fill(Backend, T* y, double value, int64_t n) {
    T element = from_number<T>(value);
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] = element;
    });
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(add, Cpu, float)
LLMCORE_INSTANTIATE(add, Cpu, bf16)
LLMCORE_INSTANTIATE(sub, Cpu, float)
LLMCORE_INSTANTIATE(sub, Cpu, bf16)
LLMCORE_INSTANTIATE(mul, Cpu, float)
LLMCORE_INSTANTIATE(mul, Cpu, bf16)
LLMCORE_INSTANTIATE(scale, Cpu, float)
LLMCORE_INSTANTIATE(scale, Cpu, bf16)
LLMCORE_INSTANTIATE(add_into, Cpu, float)
LLMCORE_INSTANTIATE(add_into, Cpu, bf16)
LLMCORE_INSTANTIATE(cast, Cpu, float, float)
LLMCORE_INSTANTIATE(cast, Cpu, float, bf16)
LLMCORE_INSTANTIATE(cast, Cpu, float, int32_t)
LLMCORE_INSTANTIATE(cast, Cpu, bf16, float)
LLMCORE_INSTANTIATE(cast, Cpu, bf16, bf16)
LLMCORE_INSTANTIATE(cast, Cpu, bf16, int32_t)
LLMCORE_INSTANTIATE(cast, Cpu, int32_t, float)
LLMCORE_INSTANTIATE(cast, Cpu, int32_t, bf16)
LLMCORE_INSTANTIATE(cast, Cpu, int32_t, int32_t)
LLMCORE_INSTANTIATE(fill, Cpu, float)
LLMCORE_INSTANTIATE(fill, Cpu, bf16)
LLMCORE_INSTANTIATE(fill, Cpu, int32_t)

}  // namespace llmcore
