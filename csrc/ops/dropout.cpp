#include "ops/dropout.h"

#include "core/dispatch.h"
#include "kernels/dropout.h"

namespace llmcore {

Tensor dropout(const Tensor& x, std::optional<Tensor> residual, float p, uint64_t seed, uint64_t offset) {
    check_float("dropout", "x", x);
    if (residual) check_dtype("dropout", "residual", *residual, x.dtype());
    if (residual) check_shape("dropout", "residual", *residual, x.shape());
    LLMCORE_CHECK(p >= 0.0f && p < 1.0f, "dropout: p must be at least 0 and below 1, got ", p);
    Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        dropout(backend, y.data<T>(), x.data<T>(), residual.value_or(Tensor()).data<T>(), x.numel(), p, seed, offset);
    });
    return y;
}

}  // namespace llmcore
