// Rotary position embedding on the CPU: one task per block of rows; the tables' row is read once for all heads of a
// row, so it stays in the first-level cache.
#include "kernels/rope.h"

#include <cstring>

#include "core/thread_pool.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kRowsPerTask = 16;

// ----------------------------------------------------------------------------------------------------------------
// kernels

// sign 1 rotates, -1 rotates back.
template <class T>
void rotate_head(T* y, const T* x, const float* cos, const float* sin, float sign, int64_t half, int64_t HS) {
    for_each_vector(half, [&](auto at) {
        Vec low = at.load(x), high = at.load(x + half), c = at.load(cos), s = at.load(sin) * sign;
        at.store(y, low * c - high * s);
        at.store(y + half, high * c + low * s);
    });
    if (HS > 2 * half) std::memcpy(y + 2 * half, x + 2 * half, (HS - 2 * half) * sizeof(T));
}

template <class T>
void rotate(T* y, const T* x, float sign, const RopeProblem& p) {
    parallel_for(p.N, kRowsPerTask, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            int64_t position = p.positions ? p.positions[n] : n % p.T;
            const float *cos = p.cos_table + position * p.half, *sin = p.sin_table + position * p.half;
            T* y_n = y + n * p.heads * p.HS;
            const T* x_n = x + n * p.heads * p.HS;
            for (int64_t head = 0; head < p.rotated; ++head)
                rotate_head(y_n + head * p.HS, x_n + head * p.HS, cos, sin, sign, p.half, p.HS);
            int64_t done = p.rotated * p.HS;
            if (p.heads > p.rotated) std::memcpy(y_n + done, x_n + done, (p.heads * p.HS - done) * sizeof(T));
        }
    });
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void rope_forward(Backend, T* y, const T* x, const RopeProblem& problem) {
    rotate(y, x, 1.0f, problem);
}

template <class Backend, class T>
void rope_backward(Backend, T* dx, const T* dy, const RopeProblem& problem) {
    rotate(dx, dy, -1.0f, problem);
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(rope_forward, Cpu, float)
LLMCORE_INSTANTIATE(rope_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(rope_backward, Cpu, float)
LLMCORE_INSTANTIATE(rope_backward, Cpu, bf16)

}  // namespace llmcore
