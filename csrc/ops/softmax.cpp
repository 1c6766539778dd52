#include "ops/softmax.h"

#include "core/dispatch.h"
#include "kernels/softmax.h"

namespace llmcore {
namespace {

void check_rows(const char* op, const char* name, const Tensor& x) {
    check_float(op, name, x);
    LLMCORE_CHECK(x.dim() >= 1 && x.size(-1) > 0, op, ": ", name,
                  " must have a last dimension of at least 1, got shape ", to_string(x.shape()));
}

}  // namespace

Tensor softmax_forward(const Tensor& x) {
    check_rows("softmax_forward", "x", x);
    Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        softmax_forward(backend, y.data<T>(), x.data<T>(), x.numel() / x.size(-1), x.size(-1));
    });
    return y;
}

Tensor softmax_backward(const Tensor& dy, const Tensor& y) {
    check_rows("softmax_backward", "y", y);
    check_dtype("softmax_backward", "dy", dy, y.dtype());
    check_shape("softmax_backward", "dy", dy, y.shape());
    Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
    dispatch(y, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        softmax_backward(backend, dx.data<T>(), dy.data<T>(), y.data<T>(), y.numel() / y.size(-1), y.size(-1));
    });
    return dx;
}

}  // namespace llmcore
