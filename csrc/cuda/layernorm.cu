// Layer normalisation on CUDA: cuda/row_norm.cuh with centred rows.
#include "cuda/row_norm.cuh"
#include "kernels/layernorm.h"

namespace llmcore {

template <class Backend, class T>
void layernorm_forward(Backend backend, T* y, T* sum, float* mean, float* rstd, const T* x, const T* residual,
                       const T* weight, const T* bias, int64_t N, int64_t C, float epsilon) {
    launch_norm_forward<true>(backend, NormForward<T>{y, sum, mean, rstd, x, residual, weight, bias, N, C, epsilon});
}

template <class Backend, class T>
void layernorm_backward(Backend backend, T* dx, float* dweight, float* dbias, const T* dy, const T* dsum, const T* x,
                        const T* weight, const float* mean, const float* rstd, float* workspace, int64_t N, int64_t C) {
    launch_norm_backward<true>(backend, NormBackward<T>{dx, workspace, dy, dsum, x, weight, mean, rstd, N, C}, dweight,
                               dbias);
}

template <class Backend>
size_t layernorm_backward_workspace(Backend backend, int64_t N, int64_t C) {
    return norm_backward_workspace<true>(backend, N, C);
}

// ---------------------------------------------------------------------------------------------------------
// instantiations

LLMCORE_INSTANTIATE(layernorm_forward, Cuda, float)
LLMCORE_INSTANTIATE(layernorm_forward, Cuda, bf16)
LLMCORE_INSTANTIATE(layernorm_backward, Cuda, float)
LLMCORE_INSTANTIATE(layernorm_backward, Cuda, bf16)
LLMCORE_INSTANTIATE(layernorm_backward_workspace, Cuda)

}  // namespace llmcore
