#include "ops/elementwise.h"

#include "core/dispatch.h"
#include "kernels/elementwise.h"

namespace llmcore {
namespace {

// Calls f(TypeTag<T>) for any of the three element types.
template <class F>
void with_type(DType dtype, F&& f) {
    if (dtype == DType::kFloat32) f(TypeTag<float>{});
    if (dtype == DType::kBFloat16) f(TypeTag<bf16>{});
    if (dtype == DType::kInt32) f(TypeTag<int32_t>{});
}

// y may be x itself. A part of it would be read by some tasks and written by others, in no order.
void check_apart(const char* op, const Tensor& y, const Tensor& x) {
    const char *y_begin = static_cast<char*>(y.raw()), *x_begin = static_cast<char*>(x.raw());
    bool apart = y_begin + y.nbytes() <= x_begin || x_begin + x.nbytes() <= y_begin;
    LLMCORE_CHECK(apart || y_begin == x_begin, op,
                  ": source and destination are overlapping rows of one tensor; clone() the source first");
}

// y = launch(a, b) for two tensors of one shape and float type.
template <class Launch>
Tensor binary(const char* op, const Tensor& a, const Tensor& b, const Launch& launch) {
    check_float(op, "a", a);
    check_dtype(op, "b", b, a.dtype());
    check_shape(op, "b", b, a.shape());
    Tensor y = Tensor::empty(a.shape(), a.dtype(), a.device());
    dispatch(a, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        launch(backend, y.data<T>(), a.data<T>(), b.data<T>(), a.numel());
    });
    return y;
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
    return binary("add", a, b, [](auto... arguments) { add(arguments...); });
}

Tensor sub(const Tensor& a, const Tensor& b) {
    return binary("sub", a, b, [](auto... arguments) { sub(arguments...); });
}

Tensor mul(const Tensor& a, const Tensor& b) {
    return binary("mul", a, b, [](auto... arguments) { mul(arguments...); });
}

Tensor scale(const Tensor& x, double factor, double offset) {
    check_float("scale", "x", x);
    Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        scale(backend, y.data<T>(), x.data<T>(), static_cast<float>(factor), static_cast<float>(offset), x.numel());
    });
    return y;
}

void add_into(const Tensor& y, const Tensor& x) {
    check_dtype("add_into", "y", y, DType::kFloat32);
    check_float("add_into", "x", x);
    check_shape("add_into", "x", x, y.shape());
    check_apart("add_into", y, x);
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        add_into(backend, y.data<float>(), x.data<T>(), x.numel());
    });
}

void copy_into(const Tensor& y, const Tensor& x) {
    check_shape("copy_", "source", x, y.shape());
    if (x.device() != y.device()) {
        copy_elements(y, x.dtype() == y.dtype() ? x : cast(x, y.dtype()));
        return;
    }
    check_apart("copy_", y, x);
    dispatch_backend(x.device(), [&](auto backend) {
        with_type(y.dtype(), [&](auto to) {
            with_type(x.dtype(), [&](auto from) {
                using To = typename decltype(to)::type;
                using From = typename decltype(from)::type;
                cast(backend, y.data<To>(), x.data<From>(), x.numel());
            });
        });
    });
}

Tensor cast(const Tensor& x, DType dtype) {
    Tensor y = Tensor::empty(x.shape(), dtype, x.device());
    copy_into(y, x);
    return y;
}

void fill(const Tensor& y, double value) {
    dispatch_backend(y.device(), [&](auto backend) {
        with_type(y.dtype(), [&](auto tag) {
            using T = typename decltype(tag)::type;
            fill(backend, y.data<T>(), value, y.numel());
        });
    });
}

}  // namespace llmcore
