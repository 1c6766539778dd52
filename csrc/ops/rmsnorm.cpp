#include "ops/rmsnorm.h"

#include "core/dispatch.h"
#include "kernels/rmsnorm.h"

namespace llmcore {
namespace {

void check_arguments(const char* op, const Tensor& x, const Tensor& weight) {
    check_float(op, "x", x);
    LLMCORE_CHECK(x.dim() >= 1 && x.size(-1) > 0, op, ": x must have a last dimension of at least 1, got shape ",
                  to_string(x.shape()));
    check_dtype(op, "weight", weight, x.dtype());
    check_shape(op, "weight", weight, {x.size(-1)});
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& residual, const Tensor& sum, const Tensor& weight,
                                   float epsilon) {
    int64_t C = x.size(-1), N = x.numel() / C;
    Shape rows(x.shape().begin(), x.shape().end() - 1);
    Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    Tensor rstd = Tensor::empty(rows, DType::kFloat32, x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        rmsnorm_forward(backend, y.data<T>(), sum.data<T>(), rstd.data<float>(), x.data<T>(), residual.data<T>(),
                        weight.data<T>(), N, C, epsilon);
    });
    return {y, rstd};
}

}  // namespace

std::tuple<Tensor, Tensor> rmsnorm_forward(const Tensor& x, const Tensor& weight, float epsilon) {
    check_arguments("rmsnorm_forward", x, weight);
    return forward(x, Tensor(), Tensor(), weight, epsilon);
}

std::tuple<Tensor, Tensor, Tensor> residual_rmsnorm_forward(const Tensor& x, const Tensor& residual,
                                                            const Tensor& weight, float epsilon) {
    check_arguments("residual_rmsnorm_forward", x, weight);
    check_dtype("residual_rmsnorm_forward", "residual", residual, x.dtype());
    check_shape("residual_rmsnorm_forward", "residual", residual, x.shape());
    Tensor sum = Tensor::empty(x.shape(), x.dtype(), x.device());
    auto [y, rstd] = forward(x, residual, sum, weight, epsilon);
    return {sum, y, rstd};
}

Tensor rmsnorm_backward(const Tensor& dy, std::optional<Tensor> dsum, const Tensor& x, const Tensor& weight,
                        const Tensor& rstd, std::optional<Tensor> dweight) {
    const char* op = "rmsnorm_backward";
    check_arguments(op, x, weight);
    int64_t C = x.size(-1), N = x.numel() / C;
    check_dtype(op, "dy", dy, x.dtype());
    check_shape(op, "dy", dy, x.shape());
    if (dsum) check_dtype(op, "dsum", *dsum, x.dtype());
    if (dsum) check_shape(op, "dsum", *dsum, x.shape());
    check_dtype(op, "rstd", rstd, DType::kFloat32);
    check_shape(op, "rstd", rstd, Shape(x.shape().begin(), x.shape().end() - 1));
    if (dweight) check_dtype(op, "dweight", *dweight, DType::kFloat32);
    if (dweight) check_shape(op, "dweight", *dweight, {C});
    Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        Tensor workspace = float_workspace(rmsnorm_backward_workspace(backend, N, C), x.device());
        rmsnorm_backward(backend, dx.data<T>(), dweight.value_or(Tensor()).data<float>(), dy.data<T>(),
                         dsum.value_or(Tensor()).data<T>(), x.data<T>(), weight.data<T>(), rstd.data<float>(),
                         workspace.data<float>(), N, C);
    });
    return dx;
}

}  // namespace llmcore
