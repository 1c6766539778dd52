#include "ops/matmul.h"

#include "core/activation.h"
#include "core/dispatch.h"
#include "kernels/matmul.h"

namespace llmcore {
namespace {

Shape leading(const Tensor& x) {
    return Shape(x.shape().begin(), x.shape().end() - 2);
}

MatmulProblem problem_of(const char* op, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
    check_float(op, "a", a);
    check_dtype(op, "b", b, a.dtype());
    LLMCORE_CHECK(a.dim() >= 2 && b.dim() >= 2, op, ": a and b need at least two dimensions, got shapes ",
                  to_string(a.shape()), " and ", to_string(b.shape()));
    LLMCORE_CHECK(a.dim() == 2 || b.dim() == 2 || leading(a) == leading(b), op,
                  ": the dimensions before the last two must be equal, or one operand must have two only; got shapes ",
                  to_string(a.shape()), " and ", to_string(b.shape()));
    int64_t M = a.size(transpose_a ? -1 : -2), K = a.size(transpose_a ? -2 : -1);
    int64_t N = b.size(transpose_b ? -2 : -1), K_b = b.size(transpose_b ? -1 : -2);
    LLMCORE_CHECK(K == K_b, op, ": the summed dimensions differ: a ", to_string(a.shape()),
                  transpose_a ? " transposed" : "", " has ", K, ", b ", to_string(b.shape()),
                  transpose_b ? " transposed" : "", " has ", K_b);
    MatmulProblem problem{numel_of(leading(a.dim() > 2 ? a : b)), M, N, K, transpose_a, transpose_b};
    if (a.dim() > 2) problem.a_step = M * K;
    if (b.dim() > 2) problem.b_step = K * N;
    if (b.dim() == 2 && !transpose_a) {  // one tall product instead of many
        problem.M *= problem.batch;
        problem.batch = 1;
    }
    return problem;
}

template <class Out, class A, class B, class Backend>
void run(Backend backend, const Tensor& y, const Tensor& a, const Tensor& b, const MatmulProblem& problem,
         const MatmulEpilogue<Out>& epilogue = {}) {
    dispatch_product<A, B>(backend, [&](auto level) {
        Tensor workspace = float_workspace(matmul_workspace(level, problem, epilogue.dbias != nullptr), y.device());
        matmul(level, y.data<Out>(), a.data<A>(), b.data<B>(), problem, epilogue, workspace.data<float>());
    });
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
    MatmulProblem problem = problem_of("matmul", a, b, transpose_a, transpose_b);
    Shape shape = leading(a.dim() > 2 ? a : b);
    shape.push_back(a.size(transpose_a ? -1 : -2));
    shape.push_back(problem.N);
    Tensor y = Tensor::empty(shape, a.dtype(), a.device());
    dispatch(a, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        run<T, T, T>(backend, y, a, b, problem);
    });
    return y;
}

void matmul_add(const Tensor& y, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b,
                bool accumulate) {
    const char* op = "matmul_add";
    LLMCORE_CHECK(a.dim() == 2 && b.dim() == 2, op, ": a and b must have two dimensions, got shapes ",
                  to_string(a.shape()), " and ", to_string(b.shape()));
    MatmulProblem problem = problem_of(op, a, b, transpose_a, transpose_b);
    check_dtype(op, "y", y, DType::kFloat32);
    check_shape(op, "y", y, {problem.M, problem.N});
    problem.accumulate = accumulate;
    dispatch(a, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        run<float, T, T>(backend, y, a, b, problem);
    });
}

std::tuple<Tensor, std::optional<Tensor>> linear_forward(const Tensor& x, const Tensor& weight,
                                                         std::optional<Tensor> bias, const std::string& activation,
                                                         std::optional<Tensor> residual, bool transpose_weight,
                                                         bool keep_pre_activation) {
    const char* op = "linear";
    check_float(op, "x", x);
    check_dtype(op, "weight", weight, x.dtype());
    LLMCORE_CHECK(x.dim() >= 1, op, ": x must have at least one dimension");
    LLMCORE_CHECK(weight.dim() == 2, op, ": weight must have two dimensions, got shape ", to_string(weight.shape()));
    int64_t K = x.size(-1), N = weight.size(transpose_weight ? 0 : 1);
    check_shape(op, "weight", weight, transpose_weight ? Shape{N, K} : Shape{K, N});
    Shape shape = x.shape();
    shape.back() = N;
    if (bias) check_dtype(op, "bias", *bias, x.dtype());
    if (bias) check_shape(op, "bias", *bias, {N});
    if (residual) check_dtype(op, "residual", *residual, x.dtype());
    if (residual) check_shape(op, "residual", *residual, shape);

    shape.pop_back();
    MatmulProblem problem{1, numel_of(shape), N, K, false, transpose_weight};
    shape.push_back(N);
    Activation kind = parse_activation(op, activation);
    Tensor y = Tensor::empty(shape, x.dtype(), x.device());
    std::optional<Tensor> pre;
    if (keep_pre_activation) pre = Tensor::empty(shape, x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        MatmulEpilogue<T> epilogue;
        epilogue.bias = bias.value_or(Tensor()).data<T>();
        epilogue.activation = kind;
        epilogue.pre_activation = pre.value_or(Tensor()).data<T>();
        epilogue.residual = residual.value_or(Tensor()).data<T>();
        run<T, T, T>(backend, y, x, weight, problem, epilogue);
    });
    return {y, pre};
}

Tensor linear_activation_backward(const Tensor& dy, const Tensor& weight, const Tensor& pre,
                                  const std::string& activation, bool transpose_weight, std::optional<Tensor> dbias) {
    const char* op = "linear_activation_backward";
    check_float(op, "dy", dy);
    check_dtype(op, "weight", weight, dy.dtype());
    LLMCORE_CHECK(dy.dim() >= 1, op, ": dy must have at least one dimension");
    LLMCORE_CHECK(weight.dim() == 2, op, ": weight must have two dimensions, got shape ", to_string(weight.shape()));
    int64_t N = dy.size(-1), K = weight.size(transpose_weight ? 1 : 0);
    check_shape(op, "weight", weight, transpose_weight ? Shape{N, K} : Shape{K, N});
    Shape shape = dy.shape();
    shape.back() = K;
    check_dtype(op, "pre", pre, dy.dtype());
    check_shape(op, "pre", pre, shape);
    if (dbias) check_dtype(op, "dbias", *dbias, DType::kFloat32);
    if (dbias) check_shape(op, "dbias", *dbias, {K});

    MatmulProblem problem{1, numel_of(Shape(shape.begin(), shape.end() - 1)), K, N, false, !transpose_weight};
    Activation kind = parse_activation(op, activation);
    Tensor dpre = Tensor::empty(shape, dy.dtype(), dy.device());
    dispatch(dy, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        MatmulEpilogue<T> epilogue;
        epilogue.activation = kind;
        epilogue.slope_at = pre.data<T>();
        epilogue.dbias = dbias.value_or(Tensor()).data<float>();
        run<T, T, T>(backend, dpre, dy, weight, problem, epilogue);
    });
    return dpre;
}

Tensor bias_activation_backward(const Tensor& dy, std::optional<Tensor> pre, const std::string& activation,
                                std::optional<Tensor> dbias) {
    const char* op = "bias_activation_backward";
    Activation kind = parse_activation(op, activation);
    check_float(op, "dy", dy);
    LLMCORE_CHECK(dy.dim() >= 1, op, ": dy must have at least one dimension");
    LLMCORE_CHECK(pre.has_value() || kind == Activation::kNone, op, ": \"", activation, "\" needs pre");
    if (pre) check_dtype(op, "pre", *pre, dy.dtype());
    if (pre) check_shape(op, "pre", *pre, dy.shape());
    int64_t N = dy.size(-1), M = numel_of(Shape(dy.shape().begin(), dy.shape().end() - 1));
    if (dbias) check_dtype(op, "dbias", *dbias, DType::kFloat32);
    if (dbias) check_shape(op, "dbias", *dbias, {N});
    Tensor dpre = kind == Activation::kNone ? dy : Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    dispatch(dy, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        Tensor workspace = float_workspace(bias_activation_backward_workspace(backend, M, N), dy.device());
        bias_activation_backward(backend, dpre.data<T>(), dbias.value_or(Tensor()).data<float>(), dy.data<T>(),
                                 pre.value_or(Tensor()).data<T>(), workspace.data<float>(), M, N, kind);
    });
    return dpre;
}

}  // namespace llmcore
