// The activations by themselves: cuda/map.cuh with the functions of cuda/activation_math.cuh.
#include "cuda/activation_math.cuh"
#include "cuda/map.cuh"
#include "kernels/activation.h"

namespace llmcore {
namespace {

struct Activate {
    Activation kind;
    LLMCORE_DEVICE float operator()(float x) const { return activate(kind, x); }
};

struct Slope {
    Activation kind;
    LLMCORE_DEVICE float operator()(float dy, float x) const { return dy * activation_slope(kind, x); }
};

struct Sigmoid {
    LLMCORE_DEVICE float operator()(float x) const { return sigmoid(x); }
};

struct SigmoidSlope {
    LLMCORE_DEVICE float operator()(float dy, float y) const { return dy * y * (1.0f - y); }
};

struct Swiglu {
    LLMCORE_DEVICE float operator()(float gate, float up) const { return activate(Activation::kSilu, gate) * up; }
};

// Both gradients from one reading of the three inputs.
template <class T>
__global__ void __launch_bounds__(kMapThreads)
    swiglu_backward_kernel(T* dgate, T* dup, const T* dy, const T* gate, const T* up, bool vectors, int64_t n) {
    for_chunks(n, [&](int64_t first, int count) {
        float gradient[kChunk], gates[kChunk], ups[kChunk], dgates[kChunk], dups[kChunk];
        load_chunk(gradient, dy + first, count, vectors);
        load_chunk(gates, gate + first, count, vectors);
        load_chunk(ups, up + first, count, vectors);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
            dgates[i] = gradient[i] * ups[i] * activation_slope(Activation::kSilu, gates[i]);
            dups[i] = gradient[i] * activate(Activation::kSilu, gates[i]);
        }
        store_chunk(dgate + first, dgates, count, vectors);
        store_chunk(dup + first, dups, count, vectors);
    });
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void activation_forward(Backend backend, T* y, const T* x, int64_t n, Activation activation) {
    map(backend, Activate{activation}, n, y, x);
}

template <class Backend, class T>
void activation_backward(Backend backend, T* dx, const T* dy, const T* x, int64_t n, Activation activation) {
    map(backend, Slope{activation}, n, dx, dy, x);
}

template <class Backend, class T>
void sigmoid_forward(Backend backend, T* y, const T* x, int64_t n) {
    map(backend, Sigmoid{}, n, y, x);
}

template <class Backend, class T>
void sigmoid_backward(Backend backend, T* dx, const T* dy, const T* y, int64_t n) {
    map(backend, SigmoidSlope{}, n, dx, dy, y);
}

template <class Backend, class T>
void swiglu_forward(Backend backend, T* y, const T* gate, const T* up, int64_t n) {
    map(backend, Swiglu{}, n, y, gate, up);
}

template <class Backend, class T>
void swiglu_backward(Backend backend, T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {
    if (n == 0) return;
    const bool vectors = on_vectors(dgate) && on_vectors(dup) && on_vectors(dy) && on_vectors(gate) && on_vectors(up);
    launch(chunk_shape(backend, n), swiglu_backward_kernel<T>, dgate, dup, dy, gate, up, vectors, n);
}

// ---------------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(activation_forward, Cuda, float)
LLMCORE_INSTANTIATE(activation_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(activation_backward, Cuda, float)
LLMCORE_INSTANTIATE(activation_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(sigmoid_forward, Cuda, float)
LLMCORE_INSTANTIATE(sigmoid_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(sigmoid_backward, Cuda, float)
LLMCORE_INSTANTIATE(sigmoid_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(swiglu_forward, Cuda, float)
LLMCORE_INSTANTIATE(swiglu_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(swiglu_backward, Cuda, float)
LLMCORE_INSTANTIATE(swiglu_backward, Cuda, bf16)

}  // namespace llmcore
