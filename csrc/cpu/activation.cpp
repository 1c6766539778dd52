// Activations on the CPU: pieces of a fixed size, each on one thread. The functions themselves are in simd_math.h.
#include "kernels/activation.h"

#include "core/thread_pool.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kGrain = 1 << 13;  // elements: some 5 us of arithmetic, well above a wake-up

// body(at, begin) for every vector of n elements; arrays are shifted by begin.
template <class Body>
LLMCORE_INLINE void for_each_piece(int64_t n, const Body& body) {
    parallel_for(n, kGrain,
                 [=](int64_t begin, int64_t end) { for_each_vector(end - begin, [&](auto at) { body(at, begin); }); });
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void activation_forward(Backend, T* y, const T* x, int64_t n, Activation activation) {
    with_activation(activation, [=]<Activation kind>() {
        for_each_piece(n, [=](auto at, int64_t begin) { at.store(y + begin, activate<kind>(at.load(x + begin))); });
    });
}

template <class Backend, class T>
void activation_backward(Backend, T* dx, const T* dy, const T* x, int64_t n, Activation activation) {
    with_activation(activation, [=]<Activation kind>() {
        for_each_piece(n, [=](auto at, int64_t begin) {
            at.store(dx + begin, at.load(dy + begin) * activation_slope<kind>(at.load(x + begin)));
        });
    });
}

template <class Backend, class T>
void sigmoid_forward(Backend, T* y, const T* x, int64_t n) {
    for_each_piece(n, [=](auto at, int64_t begin) { at.store(y + begin, sigmoid(at.load(x + begin))); });
}

template <class Backend, class T>
void sigmoid_backward(Backend, T* dx, const T* dy, const T* y, int64_t n) {
    for_each_piece(n, [=](auto at, int64_t begin) {
        Vec s = at.load(y + begin);
        at.store(dx + begin, at.load(dy + begin) * (s * (1.0f - s)));
    });
}

template <class Backend, class T>
void swiglu_forward(Backend, T* y, const T* gate, const T* up, int64_t n) {
    for_each_piece(n, [=](auto at, int64_t begin) {
        at.store(y + begin, activate<Activation::kSilu>(at.load(gate + begin)) * at.load(up + begin));
    });
}

template <class Backend, class T>
void swiglu_backward(Backend, T* dgate, T* dup, const T* dy, const T* gate, const T* up, int64_t n) {
    for_each_piece(n, [=](auto at, int64_t begin) {
        Vec g = at.load(gate + begin), dy_v = at.load(dy + begin);
        at.store(dup + begin, dy_v * activate<Activation::kSilu>(g));
        at.store(dgate + begin, dy_v * at.load(up + begin) * activation_slope<Activation::kSilu>(g));
    });
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(activation_forward, Cpu, float)
LLMCORE_INSTANTIATE(activation_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(activation_backward, Cpu, float)
LLMCORE_INSTANTIATE(activation_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(sigmoid_forward, Cpu, float)
LLMCORE_INSTANTIATE(sigmoid_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(sigmoid_backward, Cpu, float)
LLMCORE_INSTANTIATE(sigmoid_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(swiglu_forward, Cpu, float)
LLMCORE_INSTANTIATE(swiglu_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(swiglu_backward, Cpu, float)
LLMCORE_INSTANTIATE(swiglu_backward, Cpu, bf16)

}  // namespace llmcore
