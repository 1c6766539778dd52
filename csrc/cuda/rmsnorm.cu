// Root mean square normalisation on CUDA: cuda/row_norm.cuh with rows as they are.
#include "cuda/row_norm.cuh"
#include "kernels/rmsnorm.h"

namespace llmcore {

template <class Backend, class T>
void rmsnorm_forward(Backend backend, T* y, T* sum, float* rstd, const T* x, const T* residual, const T* weight,
                     int64_t N, int64_t C, float epsilon) {
    launch_norm_forward<false>(backend,
                               NormForward<T>{y, sum, nullptr, rstd, x, residual, weight, nullptr, N, C, epsilon});
}

template <class Backend, class T>
void rmsnorm_backward(Backend backend, T* dx, float* dweight, const T* dy, const T* dsum, const T* x, const T* weight,
                      const float* rstd, float* workspace, int64_t N, int64_t C) {
    launch_norm_backward<false>(backend, NormBackward<T>{dx, workspace, dy, dsum, x, weight, nullptr, rstd, N, C},
                                dweight, nullptr);
}

template <class Backend>
size_t rmsnorm_backward_workspace(Backend backend, int64_t N, int64_t C) {
    return norm_backward_workspace<false>(backend, N, C);
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(rmsnorm_forward, Cuda, float)
LLMCORE_INSTANTIATE(rmsnorm_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(rmsnorm_backward, Cuda, float)
LLMCORE_INSTANTIATE(rmsnorm_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(rmsnorm_backward_workspace, Cuda)

}  // namespace llmcore
