// Softmax on the CPU: one task per block of rows. The exponentials are computed twice rather than stored in between,
// so that bf16 rounds only the result.
#include "kernels/softmax.h"

#include "core/thread_pool.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kRowsPerTask = 16;

// ----------------------------------------------------------------------------------------------------------------
// kernels

template <class T>
void forward_row(T* y, const T* x, int64_t C) {
    constexpr float kLowest = -__builtin_inff();  // a lane behind the end: e^-infinity adds nothing
    Vec maxima = splat(kLowest), sums{};
    for_each_vector(C, [&](auto at) { maxima = max(at.load(x, kLowest), maxima); });
    float largest = max_lane(maxima);
    for_each_vector(C, [&](auto at) { sums += exp(at.load(x, kLowest) - largest); });
    float scale = 1.0f / sum(sums);
    for_each_vector(C, [&](auto at) { at.store(y, exp(at.load(x) - largest) * scale); });
}

template <class T>
void backward_row(T* dx, const T* dy, const T* y, int64_t C) {
    Vec sums{};
    for_each_vector(C, [&](auto at) { sums += at.load(dy) * at.load(y); });
    float total = sum(sums);
    for_each_vector(C, [&](auto at) { at.store(dx, at.load(y) * (at.load(dy) - total)); });
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void softmax_forward(Backend, T* y, const T* x, int64_t N, int64_t C) {
    parallel_for(N, kRowsPerTask, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) forward_row(y + n * C, x + n * C, C);
    });
}

template <class Backend, class T>
void softmax_backward(Backend, T* dx, const T* dy, const T* y, int64_t N, int64_t C) {
    parallel_for(N, kRowsPerTask, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) backward_row(dx + n * C, dy + n * C, y + n * C, C);
    });
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(softmax_forward, Cpu, float)
LLMCORE_INSTANTIATE(softmax_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(softmax_backward, Cpu, float)
LLMCORE_INSTANTIATE(softmax_backward, Cpu, bf16)

}  // namespace llmcore
