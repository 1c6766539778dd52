#include "ops/layernorm.h"

#include "core/dispatch.h"
#include "kernels/layernorm.h"

namespace llmcore {
namespace {

void check_arguments(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
    check_float(op, "x", x);
    LLMCORE_CHECK(x.dim() >= 1 && x.size(-1) > 0, op, ": x must have a last dimension of at least 1, got shape ",
                  to_string(x.shape()));
    check_dtype(op, "weight", weight, x.dtype());
    check_shape(op, "weight", weight, {x.size(-1)});
    if (!bias) return;
    check_dtype(op, "bias", *bias, x.dtype());
    check_shape(op, "bias", *bias, {x.size(-1)});
}

Shape rows_of(const Tensor& x) {
    return Shape(x.shape().begin(), x.shape().end() - 1);
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& residual, const Tensor& sum,
                                           const Tensor& weight, const std::optional<Tensor>& bias, float epsilon) {
    int64_t C = x.size(-1), N = x.numel() / C;
    Shape rows = rows_of(x);
    Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    Tensor mean = Tensor::empty(rows, DType::kFloat32, x.device());
    Tensor rstd = Tensor::empty(rows, DType::kFloat32, x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        layernorm_forward(backend, y.data<T>(), sum.data<T>(), mean.data<float>(), rstd.data<float>(), x.data<T>(),
                          residual.data<T>(), weight.data<T>(), bias.value_or(Tensor()).data<T>(), N, C, epsilon);
    });
    return {y, mean, rstd};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> layernorm_forward(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                                     float epsilon) {
    check_arguments("layernorm_forward", x, weight, bias);
    return forward(x, Tensor(), Tensor(), weight, bias, epsilon);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> residual_layernorm_forward(const Tensor& x, const Tensor& residual,
                                                                      const Tensor& weight, std::optional<Tensor> bias,
                                                                      float epsilon) {
    check_arguments("residual_layernorm_forward", x, weight, bias);
    check_dtype("residual_layernorm_forward", "residual", residual, x.dtype());
    check_shape("residual_layernorm_forward", "residual", residual, x.shape());
    Tensor sum = Tensor::empty(x.shape(), x.dtype(), x.device());
    auto [y, mean, rstd] = forward(x, residual, sum, weight, bias, epsilon);
    return {sum, y, mean, rstd};
}

Tensor layernorm_backward(const Tensor& dy, std::optional<Tensor> dsum, const Tensor& x, const Tensor& weight,
                          const Tensor& mean, const Tensor& rstd, std::optional<Tensor> dweight,
                          std::optional<Tensor> dbias) {
    const char* op = "layernorm_backward";
    check_arguments(op, x, weight, std::nullopt);
    int64_t C = x.size(-1), N = x.numel() / C;
    check_dtype(op, "dy", dy, x.dtype());
    check_shape(op, "dy", dy, x.shape());
    if (dsum) check_dtype(op, "dsum", *dsum, x.dtype());
    if (dsum) check_shape(op, "dsum", *dsum, x.shape());
    Shape rows = rows_of(x);
    for (auto [name, tensor] : {std::pair{"mean", &mean}, std::pair{"rstd", &rstd}}) {
        check_dtype(op, name, *tensor, DType::kFloat32);
        check_shape(op, name, *tensor, rows);
    }
    if (dweight) check_dtype(op, "dweight", *dweight, DType::kFloat32);
    if (dweight) check_shape(op, "dweight", *dweight, {C});
    if (dbias) check_dtype(op, "dbias", *dbias, DType::kFloat32);
    if (dbias) check_shape(op, "dbias", *dbias, {C});
    Tensor dx = Tensor::empty(x.shape(), x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        Tensor workspace = float_workspace(layernorm_backward_workspace(backend, N, C), x.device());
        layernorm_backward(backend, dx.data<T>(), dweight.value_or(Tensor()).data<float>(),
                           dbias.value_or(Tensor()).data<float>(), dy.data<T>(), dsum.value_or(Tensor()).data<T>(),
                           x.data<T>(), weight.data<T>(), mean.data<float>(), rstd.data<float>(),
                           workspace.data<float>(), N, C);
    });
    return dx;
}

}  // namespace llmcore
