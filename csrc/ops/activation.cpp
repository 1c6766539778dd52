#include "ops/activation.h"

#include "core/dispatch.h"
#include "kernels/activation.h"

namespace llmcore {
namespace {

Tensor empty_like(const Tensor& x) {
    return Tensor::empty(x.shape(), x.dtype(), x.device());
}

void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
    check_dtype(op, name, tensor, x.dtype());
    check_shape(op, name, tensor, x.shape());
}

}  // namespace

Tensor activation_forward(const Tensor& x, const std::string& activation) {
    check_float("activation_forward", "x", x);
    Activation kind = parse_activation("activation_forward", activation);
    Tensor y = empty_like(x);
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        activation_forward(backend, y.data<T>(), x.data<T>(), x.numel(), kind);
    });
    return y;
}

Tensor activation_backward(const Tensor& dy, const Tensor& x, const std::string& activation) {
    check_float("activation_backward", "x", x);
    check_like("activation_backward", "dy", dy, x);
    Activation kind = parse_activation("activation_backward", activation);
    Tensor dx = empty_like(x);
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        activation_backward(backend, dx.data<T>(), dy.data<T>(), x.data<T>(), x.numel(), kind);
    });
    return dx;
}

Tensor sigmoid_forward(const Tensor& x) {
    check_float("sigmoid_forward", "x", x);
    Tensor y = empty_like(x);
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        sigmoid_forward(backend, y.data<T>(), x.data<T>(), x.numel());
    });
    return y;
}

Tensor sigmoid_backward(const Tensor& dy, const Tensor& y) {
    check_float("sigmoid_backward", "y", y);
    check_like("sigmoid_backward", "dy", dy, y);
    Tensor dx = empty_like(y);
    dispatch(y, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        sigmoid_backward(backend, dx.data<T>(), dy.data<T>(), y.data<T>(), y.numel());
    });
    return dx;
}

Tensor swiglu_forward(const Tensor& gate, const Tensor& up) {
    check_float("swiglu_forward", "gate", gate);
    check_like("swiglu_forward", "up", up, gate);
    Tensor y = empty_like(gate);
    dispatch(gate, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        swiglu_forward(backend, y.data<T>(), gate.data<T>(), up.data<T>(), gate.numel());
    });
    return y;
}

std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& dy, const Tensor& gate, const Tensor& up) {
    check_float("swiglu_backward", "gate", gate);
    check_like("swiglu_backward", "up", up, gate);
    check_like("swiglu_backward", "dy", dy, gate);
    Tensor dgate = empty_like(gate), dup = empty_like(gate);
    dispatch(gate, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        swiglu_backward(backend, dgate.data<T>(), dup.data<T>(), dy.data<T>(), gate.data<T>(), up.data<T>(),
                        gate.numel());
    });
    return {dgate, dup};
}

}  // namespace llmcore
