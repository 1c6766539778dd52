// Norms on the CPU: one task per piece.
#include "kernels/norm.h"

#include <cmath>

#include "core/bf16.h"
#include "core/thread_pool.h"
#include "cpu/double_sum.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

// ----------------------------------------------------------------------------------------------------------------
// kernels

double squared_norm(const float* x, int64_t n) {
    return sum_in_double(n, [=](int64_t i) { return static_cast<double>(x[i]) * x[i]; });
}

template <class T>
bool piece_is_finite(const T* x, int64_t n) {
    VecInt bad{};
    for_each_vector(n, [&](auto at) { bad |= (float_to_bits(at.load(x)) & 0x7f800000u) == 0x7f800000u; });
    for (int lane = 0; lane < kLanes; ++lane)
        if (bad[lane]) return false;
    return true;
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend>
void squared_norm_pieces(Backend, double* partial, const float* x, int64_t n) {
    parallel_for(n, kNormPiece, [=](int64_t begin, int64_t end) {
        partial[begin / kNormPiece] = squared_norm(x + begin, end - begin);
    });
}

template <class Backend>
void norm_of_pieces(Backend, float* norm, const double* partial, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += partial[i];
    *norm = static_cast<float>(std::sqrt(sum));
}

template <class Backend>
void clip_factor(Backend, float* factor, const float* norm, float max_norm) {
    float wanted = max_norm / (*norm + 1e-6f);
    *factor = wanted > 1.0f ? 1.0f : wanted;
}

template <class Backend, class T>
void all_finite(Backend, int32_t* flag, const T* x, int64_t n) {
    *flag = 1;
    parallel_for(n, kNormPiece, [=](int64_t begin, int64_t end) {
        // All writers write the same, so the order does not matter; a piece after a bad one need not be read.
        if (__atomic_load_n(flag, __ATOMIC_RELAXED) && !piece_is_finite(x + begin, end - begin))
            __atomic_store_n(flag, 0, __ATOMIC_RELAXED);
    });
}

// ----------------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(squared_norm_pieces, Cpu)
LLMCORE_INSTANTIATE(norm_of_pieces, Cpu)
LLMCORE_INSTANTIATE(clip_factor, Cpu)
LLMCORE_INSTANTIATE(all_finite, Cpu, float)
LLMCORE_INSTANTIATE(all_finite, Cpu, bf16)

}  // namespace llmcore
