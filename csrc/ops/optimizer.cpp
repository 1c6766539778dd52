#include "ops/optimizer.h"

#include "core/dispatch.h"
#include "kernels/optimizer.h"

namespace llmcore {
namespace {

void check_state(const char* op, const char* name, const Tensor& tensor, const Tensor& params) {
    check_dtype(op, name, tensor, DType::kFloat32);
    check_shape(op, name, tensor, params.shape());
}

void check_arguments(const char* op, const Tensor& params, const std::optional<Tensor>& master, const Tensor& grads,
                     int64_t step, const std::optional<Tensor>& grad_scale,
                     const std::optional<uint64_t>& rounding_seed) {
    check_float(op, "params", params);
    check_state(op, "grads", grads, params);
    LLMCORE_CHECK(master || rounding_seed || params.dtype() == DType::kFloat32, op,
                  ": bfloat16 params need a float32 master or a rounding_seed, for most steps are smaller than their "
                  "rounding");
    LLMCORE_CHECK(!rounding_seed || (!master && params.dtype() == DType::kBFloat16), op,
                  ": rounding_seed is for bfloat16 params without a master, got ", name_of(params.dtype()), " params",
                  master ? " with one" : "");
    if (master) check_state(op, "master", *master, params);
    if (grad_scale) check_dtype(op, "grad_scale", *grad_scale, DType::kFloat32);
    if (grad_scale) check_shape(op, "grad_scale", *grad_scale, {1});
    LLMCORE_CHECK(step >= 1, op, ": step counts from 1, got ", step);
}

void check_fraction(const char* op, const char* name, double value) {
    LLMCORE_CHECK(value >= 0 && value < 1, op, ": ", name, " must be at least 0 and below 1, got ", value);
}

void check_momentum(const char* op, const Tensor& params, const std::optional<Tensor>& buffer, double momentum) {
    LLMCORE_CHECK(buffer || momentum == 0, op, ": momentum ", momentum, " needs a momentum_buffer");
    if (buffer) check_state(op, "momentum_buffer", *buffer, params);
}

Rounding rounding_of(const std::optional<uint64_t>& seed, int64_t step) {
    return {seed.has_value(), seed.value_or(0), static_cast<uint64_t>(step)};
}

float* floats(const std::optional<Tensor>& tensor) {
    return tensor.value_or(Tensor()).data<float>();
}

}  // namespace

void adamw_step(const Tensor& params, std::optional<Tensor> master, const Tensor& grads, const Tensor& m,
                const Tensor& v, double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                int64_t step, std::optional<Tensor> grad_scale, bool adam_l2, std::optional<uint64_t> rounding_seed) {
    check_arguments("adamw_step", params, master, grads, step, grad_scale, rounding_seed);
    check_state("adamw_step", "m", m, params);
    check_state("adamw_step", "v", v, params);
    check_fraction("adamw_step", "beta1", beta1);
    check_fraction("adamw_step", "beta2", beta2);
    AdamWOptions options{learning_rate, beta1, beta2, epsilon, weight_decay, step, adam_l2};
    dispatch(params, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        adamw_step(backend, params.data<T>(), floats(master), m.data<float>(), v.data<float>(), grads.data<float>(),
                   floats(grad_scale), params.numel(), options, rounding_of(rounding_seed, step));
    });
}

void sgd_step(const Tensor& params, std::optional<Tensor> master, const Tensor& grads,
              std::optional<Tensor> momentum_buffer, double learning_rate, double momentum, double dampening,
              bool nesterov, double weight_decay, int64_t step, std::optional<Tensor> grad_scale,
              std::optional<uint64_t> rounding_seed) {
    check_arguments("sgd_step", params, master, grads, step, grad_scale, rounding_seed);
    check_momentum("sgd_step", params, momentum_buffer, momentum);
    LLMCORE_CHECK(!nesterov || (momentum > 0 && dampening == 0),
                  "sgd_step: nesterov needs momentum above 0 and dampening 0, got momentum ", momentum,
                  " and dampening ", dampening);
    SgdOptions options{learning_rate, momentum, dampening, weight_decay, nesterov, step == 1};
    if (momentum == 0) momentum_buffer.reset();  // as torch: without momentum, dampening does nothing
    dispatch(params, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        sgd_step(backend, params.data<T>(), floats(master), floats(momentum_buffer), grads.data<float>(),
                 floats(grad_scale), params.numel(), options, rounding_of(rounding_seed, step));
    });
}

void rmsprop_step(const Tensor& params, std::optional<Tensor> master, const Tensor& grads, const Tensor& square_avg,
                  std::optional<Tensor> momentum_buffer, double learning_rate, double alpha, double epsilon,
                  double momentum, double weight_decay, int64_t step, std::optional<Tensor> grad_scale,
                  std::optional<uint64_t> rounding_seed) {
    check_arguments("rmsprop_step", params, master, grads, step, grad_scale, rounding_seed);
    check_state("rmsprop_step", "square_avg", square_avg, params);
    check_momentum("rmsprop_step", params, momentum_buffer, momentum);
    check_fraction("rmsprop_step", "alpha", alpha);
    RmspropOptions options{learning_rate, alpha, epsilon, momentum, weight_decay};
    if (momentum == 0) momentum_buffer.reset();
    dispatch(params, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        rmsprop_step(backend, params.data<T>(), floats(master), square_avg.data<float>(), floats(momentum_buffer),
                     grads.data<float>(), floats(grad_scale), params.numel(), options,
                     rounding_of(rounding_seed, step));
    });
}

}  // namespace llmcore
