#include "ops/reduce.h"

#include <limits>

#include "core/dispatch.h"
#include "kernels/reduce.h"

namespace llmcore {
namespace {

double one_over(int64_t n) {
    return n > 0 ? 1.0 / static_cast<double>(n) : std::numeric_limits<double>::quiet_NaN();
}

Tensor scaled_sum(const char* op, const Tensor& x, double factor) {
    check_float(op, "x", x);
    Tensor y = Tensor::empty({}, DType::kFloat32, x.device());
    // A double is two floats wide.
    Tensor workspace = float_workspace(2 * static_cast<size_t>(x.numel() / kSumPiece + 1), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        sum(backend, y.data<float>(), x.data<T>(), static_cast<double*>(workspace.raw()), x.numel(), factor);
    });
    return y;
}

Tensor broadcast(const char* op, const Tensor& dy, Shape shape, DType dtype, double factor) {
    check_dtype(op, "dy", dy, DType::kFloat32);
    LLMCORE_CHECK(dy.numel() == 1, op, ": dy must have one element, got shape ", to_string(dy.shape()));
    Tensor dx = Tensor::empty(std::move(shape), dtype, dy.device());
    check_float(op, "dx", dx);
    dispatch(dx, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        sum_backward(backend, dx.data<T>(), dy.data<float>(), dx.numel(), factor);
    });
    return dx;
}

}  // namespace

Tensor sum(const Tensor& x) {
    return scaled_sum("sum", x, 1.0);
}

Tensor mean(const Tensor& x) {
    return scaled_sum("mean", x, one_over(x.numel()));
}

Tensor sum_backward(const Tensor& dy, Shape shape, DType dtype) {
    return broadcast("sum_backward", dy, std::move(shape), dtype, 1.0);
}

Tensor mean_backward(const Tensor& dy, Shape shape, DType dtype) {
    double factor = one_over(numel_of(shape));
    return broadcast("mean_backward", dy, std::move(shape), dtype, factor);
}

void add_column_sums(const Tensor& total, const Tensor& x) {
    const char* op = "add_column_sums";
    check_float(op, "x", x);
    LLMCORE_CHECK(x.dim() >= 1 && x.size(-1) > 0, op, ": x must have a last dimension of at least 1, got shape ",
                  to_string(x.shape()));
    int64_t C = x.size(-1), N = x.numel() / C;
    check_dtype(op, "total", total, DType::kFloat32);
    check_shape(op, "total", total, {C});
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        Tensor workspace = float_workspace(add_column_sums_workspace(backend, N, C), x.device());
        add_column_sums(backend, total.data<float>(), x.data<T>(), workspace.data<float>(), N, C);
    });
}

}  // namespace llmcore
