// Embedding on the CPU: the forward pass cuts the rows; the backward pass cuts the channels, because rows of the same
// id add into one place, and each channel then has one owner that adds in the order of the rows.
#include "kernels/embedding.h"

#include "core/thread_pool.h"
#include "cpu/simd.h"
#include "cpu/target.h"

namespace llmcore {
namespace {

constexpr int64_t kRowsPerTask = 32;
constexpr int64_t kChannelsPerTask = 64;  // 256 bytes of a float row: four cache lines of one owner

}  // namespace

// --------------------------------------------------------------------------------------------------------------
// launchers

template <class Backend, class T>
void embedding_forward(Backend, T* y, const int32_t* ids, const int32_t* positions, EmbeddingTable<T> tokens,
                       EmbeddingTable<T> positions_table, int64_t N, int64_t T_size, int64_t C) {
    const T *weight = tokens.weight, *position_weight = positions_table.weight;
    parallel_for(N, kRowsPerTask, [=](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
            const T* token = weight + ids[n] * C;
            if (position_weight == nullptr) {
                std::memcpy(y + n * C, token, C * sizeof(T));
                continue;
            }
            const T* position = position_weight + (positions ? positions[n] : n % T_size) * C;
            for_each_vector(C, [&](auto at) { at.store(y + n * C, at.load(token) + at.load(position)); });
        }
    });
}

template <class Backend, class T>
void embedding_backward(Backend, float* dweight, const T* dy, const int32_t* ids, int32_t*, float*, int64_t N,
                        int64_t T_size, int64_t, int64_t C) {
    parallel_for(C, kChannelsPerTask, [=](int64_t begin, int64_t end) {
        for (int64_t n = 0; n < N; ++n) {
            float* row = dweight + (ids ? ids[n] : n % T_size) * C + begin;
            const T* dy_n = dy + n * C + begin;
            for_each_vector(end - begin, [&](auto at) { at.store(row, at.load(row) + at.load(dy_n)); });
        }
    });
}

template <class Backend>
EmbeddingWorkspace embedding_backward_workspace(Backend, const int32_t*, int64_t, int64_t) {
    return {0, 0};
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(embedding_forward, Cpu, float)
LLMCORE_INSTANTIATE(embedding_forward, Cpu, bf16)
LLMCORE_INSTANTIATE(embedding_backward, Cpu, float)
LLMCORE_INSTANTIATE(embedding_backward, Cpu, bf16)
LLMCORE_INSTANTIATE(embedding_backward_workspace, Cpu)

}  // namespace llmcore
