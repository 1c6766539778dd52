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

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
    check_float("add", "a", a);
    check_dtype("add", "b", b, a.dtype());
    check_shape("add", "b", b, a.shape());
    Tensor y = Tensor::empty(a.shape(), a.dtype(), a.device());
    dispatch(a, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        add(backend, y.data<T>(), a.data<T>(), b.data<T>(), a.numel());
    });
    return y;
}

void copy_into(const Tensor& y, const Tensor& x) {
    check_shape("copy_", "source", x, y.shape());
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
