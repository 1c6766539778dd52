// One function over arrays, element by element. Bound by memory: a thread takes eight elements at a time, in vectors of
// 16 bytes where all addresses allow it. An element is read by the thread that writes it, before it does, so the result
// may be an input.
//
//   map(backend, Add{}, n, y, a, b);     y[i] = Add{}(a[i], b[i]), in float whatever the arrays hold
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/backend.h"
#include "core/bf16.h"
#include "cuda/launch.cuh"
#include "cuda/vec.cuh"

namespace llmcore {

constexpr int kMapThreads = 256, kChunk = 8;

// ---------------------------------------------------------------------------------------------------------------------
// chunks of eight elements as floats; the last one may be shorter, and without vectors goes element by element

template <class T>
LLMCORE_DEVICE void load_chunk(float (&values)[kChunk], const T* x, int count, bool vectors) {
    constexpr int kPer = kPerVector<T>;
    if (vectors && count == kChunk) {
#pragma unroll
        for (int first = 0; first < kChunk; first += kPer) {
            float part[kPer];
            load_vector(part, x + first);
#pragma unroll
            for (int i = 0; i < kPer; ++i) values[first + i] = part[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < kChunk; ++i)  // a loop to `count` would put the values into local memory
            values[i] = i < count ? to_float(x[i]) : 0.0f;
    }
}

template <class T>
LLMCORE_DEVICE void store_chunk(T* y, const float (&values)[kChunk], int count, bool vectors) {
    constexpr int kPer = kPerVector<T>;
    if (vectors && count == kChunk) {
#pragma unroll
        for (int first = 0; first < kChunk; first += kPer) {
            float part[kPer];
#pragma unroll
            for (int i = 0; i < kPer; ++i) part[i] = values[first + i];
            store_vector(y + first, part);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kChunk; ++i)
            if (i < count) y[i] = from_float<T>(values[i]);
    }
}

// body(first element, how many) for each chunk of this thread.
template <class Body>
LLMCORE_DEVICE void for_chunks(int64_t n, Body&& body) {
    const int64_t step = int64_t(gridDim.x) * kMapThreads * kChunk;
    for (int64_t i = (int64_t(blockIdx.x) * kMapThreads + threadIdx.x) * kChunk; i < n; i += step)
        body(i, n - i < kChunk ? int(n - i) : kChunk);
}

// ---------------------------------------------------------------------------------------------------------------------
// host

inline bool on_vectors(const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Enough blocks to fill the device once, a thread for each item; each then goes on where the grid ends.
inline Launch map_shape(const Cuda& backend, int64_t items) {
    const int64_t blocks = (items + kMapThreads - 1) / kMapThreads, most = 8 * int64_t(backend.multiprocessors);
    return {dim3(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, most))), dim3(kMapThreads), 0, backend.stream};
}

inline Launch chunk_shape(const Cuda& backend, int64_t n) {
    return map_shape(backend, (n + kChunk - 1) / kChunk);
}

// ---------------------------------------------------------------------------------------------------------------------
// map

template <class F, size_t kCount, size_t... kInput>
LLMCORE_DEVICE float apply_at(const F& f, const float (&inputs)[kCount][kChunk], int i,
                              std::index_sequence<kInput...>) {
    return f(inputs[kInput][i]...);
}

template <class F, class Y, class... Xs>
__global__ void __launch_bounds__(kMapThreads) map_kernel(F f, bool vectors, int64_t n, Y* y, const Xs*... xs) {
    for_chunks(n, [&](int64_t first, int count) {
        float inputs[sizeof...(Xs)][kChunk], result[kChunk];
        int input = 0;
        (load_chunk(inputs[input++], xs + first, count, vectors), ...);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) result[i] = apply_at(f, inputs, i, std::index_sequence_for<Xs...>{});
        store_chunk(y + first, result, count, vectors);
    });
}

template <class F, class Y, class... Xs>
void map(const Cuda& backend, F f, int64_t n, Y* y, const Xs*... xs) {
    if (n == 0) return;
    const bool vectors = on_vectors(y) && (on_vectors(xs) && ...);
    launch(chunk_shape(backend, n), map_kernel<F, Y, Xs...>, f, vectors, n, y, xs...);
}

}  // namespace llmcore
