// Dropout on the CPU: pieces of a fixed size; each draws its words in small runs that stay in the first-level cache.
#include "kernels/dropout.h"

#include "core/thread_pool.h"
#include "cpu/philox_words.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kGrain = 1 << 14;
constexpr int64_t kRun = 512;

// ----------------------------------------------------------------------------------------------------------------
// kernels

LLMCORE_INLINE VecUint load_words(const uint32_t* words) {
    VecUint bits;
    std::memcpy(&bits, words, sizeof bits);
    return bits;
}

// One run of up to kRun elements, whose words lie in `words` with room for a whole vector behind the last.
template <class T>
void dropout_run(T* y, const T* x, const T* residual, const uint32_t* words, int64_t n, uint32_t threshold,
                 float keep_scale) {
    for_each_vector(n, [&](auto at) {
        Vec factor = select(load_words(words + at.column) >= threshold, splat(keep_scale), Vec{});
        Vec kept = at.load(x) * factor;
        at.store(y, residual ? at.load(residual) + kept : kept);
    });
}

}  // namespace

// --------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void dropout(Backend, T* y, const T* x, const T* residual, int64_t n, float p, uint64_t seed, uint64_t offset) {
    uint32_t threshold = dropout_threshold(p);
    float keep_scale = 1.0f / (1.0f - p);
    parallel_for(n, kGrain, [=](int64_t begin, int64_t end) {
        uint32_t buffer[kRun + kWordsPadding + kLanes] = {};
        for (int64_t i = begin; i < end; i += kRun) {
            int64_t size = end - i < kRun ? end - i : kRun;
            const uint32_t* words = philox_words(buffer, seed, offset, static_cast<uint64_t>(i), size);
            dropout_run(y + i, x + i, residual ? residual + i : nullptr, words, size, threshold, keep_scale);
        }
    });
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(dropout, Cpu, float)
LLMCORE_INSTANTIATE(dropout, Cpu, bf16)

}  // namespace llmcore
