// Dropout: eight elements of a thread are two blocks of Philox, drawn where they are needed and never stored.
#include "core/philox.h"
#include "cuda/map.cuh"
#include "kernels/dropout.h"

namespace llmcore {
namespace {

struct Mask {
    uint64_t seed, offset;
    const uint64_t* shift;  // of the offset: core/backend.h
    uint32_t threshold;     // an element is kept if its word is at least this
    float keep_scale;

    // Multiplies elements `first` to `first` + 7 by the mask and the scale. `first` is a multiple of four.
    LLMCORE_DEVICE void apply(float (&values)[kChunk], int64_t first) const {
#pragma unroll
        for (int block = 0; block < kChunk / 4; ++block) {
            const Philox4 words = philox(seed, offset, uint64_t(first) / 4 + uint64_t(block));
#pragma unroll
            for (int i = 0; i < 4; ++i) values[block * 4 + i] *= words.word[i] >= threshold ? keep_scale : 0.0f;
        }
    }
};

template <class T>
__global__ void __launch_bounds__(kMapThreads)
    dropout_kernel(T* y, const T* x, const T* residual, Mask mask, bool vectors, int64_t n) {
    mask.offset += *mask.shift;
    for_chunks(n, [&](int64_t first, int count) {
        float values[kChunk], added[kChunk];
        load_chunk(values, x + first, count, vectors);
        mask.apply(values, first);
        if (residual != nullptr) {
            load_chunk(added, residual + first, count, vectors);
#pragma unroll
            for (int i = 0; i < kChunk; ++i) values[i] += added[i];
        }
        store_chunk(y + first, values, count, vectors);
    });
}

}  // namespace

template <class Backend, class T>
void dropout(Backend backend, T* y, const T* x, const T* residual, int64_t n, float p, uint64_t seed, uint64_t offset) {
    if (n == 0) return;
    const Mask mask{seed, offset, backend.random_shift, dropout_threshold(p), 1.0f / (1.0f - p)};
    const bool vectors = on_vectors(y) && on_vectors(x) && on_vectors(residual);
    launch(chunk_shape(backend, n), dropout_kernel<T>, y, x, residual, mask, vectors, n);
}

LLMCORE_INSTANTIATE(dropout, Cuda, float)
LLMCORE_INSTANTIATE(dropout, Cuda, bf16)

}  // namespace llmcore
