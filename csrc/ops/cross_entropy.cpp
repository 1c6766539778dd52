#include "ops/cross_entropy.h"

#include <algorithm>

#include "core/dispatch.h"
#include "core/index_check.h"
#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"

namespace llmcore {
namespace {

// How large chunks are: at most `most_logits`; within that `good_rows`, or more if those are not `good_logits`.
struct ChunkSizes {
    int64_t most_logits, good_logits, good_rows;
};

// On the CPU a chunk takes 64 MiB at most, or 128 with bf16 operands. Within that, so many rows amortise what each
// chunk costs, packing the weight twice and going through its gradient (N = 1024, V = 50257, C = 768, two threads, ms:
// bf16 283, 227, 164 and 164 with 128, 256, 512 and 1024 rows; float 1017, 877, 864, 847), and 4 MiB keep a small
// vocabulary's logits in the cache. A GPU needs thousands of rows to be full: 8192, or what 1 GiB holds.
constexpr ChunkSizes kCpuChunk{1 << 24, 1 << 20, 256}, kCpuBf16Chunk{1 << 25, 1 << 20, 512},
    kCudaChunk{1 << 28, 0, 8192};

// Rows of a chunk, by the kind of device, the type of the operands and the sizes alone; all chunks about equal.
int64_t chunk_rows(const Tensor& x, int64_t N, int64_t V) {
    bool cuda = x.device().type == DeviceType::kCuda;
    const ChunkSizes& sizes = cuda ? kCudaChunk : x.dtype() == DType::kFloat32 ? kCpuChunk : kCpuBf16Chunk;
    int64_t good = std::max(sizes.good_rows, sizes.good_logits / std::max<int64_t>(V, 1));
    int64_t rows = std::clamp<int64_t>(sizes.most_logits / std::max<int64_t>(V, 1), 1, good);
    int64_t chunks = std::max<int64_t>((N + rows - 1) / rows, 1);
    return std::max<int64_t>((N + chunks - 1) / chunks, 1);
}

std::string sentence_of(const IndexRule& rule, int64_t element, int32_t id) {
    return concat(rule.op, ": ", rule.name, " has the id ", id, " at element ", element, ", but there are logits for ",
                  rule.rows, " ids (0 to ", rule.rows - 1, ") and ignore_index is ", rule.ignored);
}

void check_targets(const char* op, const Tensor& targets, const Shape& shape, int64_t V, int32_t ignore_index) {
    LLMCORE_CHECK(V > 0, op, ": there must be logits for at least one id, got 0");
    check_dtype(op, "targets", targets, DType::kInt32);
    check_shape(op, "targets", targets, shape);
    check_indices(targets, {op, "targets", V, ignore_index, sentence_of});
}

Shape rows_of(const Tensor& x) {
    return Shape(x.shape().begin(), x.shape().end() - 1);
}

void check_logits(const char* op, const Tensor& logits, const Tensor& targets, const CrossEntropyOptions& options) {
    check_float(op, "logits", logits);
    LLMCORE_CHECK(logits.dim() >= 1, op, ": logits must have a last dimension");
    check_targets(op, targets, rows_of(logits), logits.size(-1), options.ignore_index);
}

void check_linear(const char* op, const Tensor& x, const Tensor& weight, const Tensor& targets,
                  const std::optional<Tensor>& dweight, int32_t ignore_index) {
    check_float(op, "x", x);
    LLMCORE_CHECK(x.dim() >= 1, op, ": x must have a last dimension");
    check_dtype(op, "weight", weight, x.dtype());
    LLMCORE_CHECK(weight.dim() == 2 && weight.size(1) == x.size(-1), op, ": weight must have shape (V, ", x.size(-1),
                  "), got ", to_string(weight.shape()));
    if (dweight) check_shape(op, "dweight", *dweight, weight.shape());
    if (dweight) check_dtype(op, "dweight", *dweight, DType::kFloat32);
    check_targets(op, targets, rows_of(x), weight.size(0), ignore_index);
}

// What the forward pass kept for the backward pass.
void check_kept(const char* op, const Tensor& dloss, const Tensor& lse, const Tensor& scale, const Tensor& targets) {
    check_dtype(op, "dloss", dloss, DType::kFloat32);
    check_shape(op, "dloss", dloss, {});
    check_dtype(op, "lse", lse, DType::kFloat32);
    check_shape(op, "lse", lse, targets.shape());
    check_dtype(op, "scale", scale, DType::kFloat32);
    check_shape(op, "scale", scale, {1});
}

Tensor float_tensor(const Shape& shape, const Tensor& like) {
    return Tensor::empty(shape, DType::kFloat32, like.device());
}

Tensor scale_of(const Tensor& targets, const CrossEntropyOptions& options) {
    Tensor scale = float_tensor({1}, targets);
    dispatch_backend(targets.device(), [&](auto backend) {
        cross_entropy_scale(backend, scale.data<float>(), targets.data<int32_t>(), targets.numel(),
                            options.ignore_index, options.num_items);
    });
    return scale;
}

Tensor reduce(const Tensor& losses, const Tensor& scale) {
    Tensor loss = float_tensor({}, losses);
    dispatch_backend(losses.device(), [&](auto backend) {
        cross_entropy_reduce(backend, loss.data<float>(), losses.data<float>(), scale.data<float>(), losses.numel());
    });
    return loss;
}

template <class Out, class A, class B, class Backend>
void multiply(Backend backend, Out* y, const A* a, const B* b, const MatmulProblem& problem) {
    dispatch_product<A, B>(backend, [&](auto level) {
        Tensor workspace = float_workspace(matmul_workspace(level, problem), running_on());
        matmul(level, y, a, b, problem, MatmulEpilogue<Out>{}, workspace.data<float>());
    });
}

// What a pass over the chunks computes; a tensor that is not defined is left out.
struct Pass {
    Tensor losses, lse;   // (N): written if losses is defined; else lse is read
    Tensor dx, dweight;   // (N, C) and (V, C) float32
    Tensor dloss, scale;  // for the gradients; dloss is 1 where losses are computed, too
    bool accumulate;      // dweight += instead of =
};

// From one row of a chunk's logits to the next. Only rows that begin on 16 bytes can be copied by the pieces that a
// GPU's products are made of.
int64_t row_step_of(Device device, int64_t V) {
    constexpr int64_t kAligned = 64;
    return device.type == DeviceType::kCuda ? (V + kAligned - 1) / kAligned * kAligned : V;
}

void run_chunks(const Pass& pass, const Tensor& x, const Tensor& weight, const Tensor& targets,
                const CrossEntropyOptions& options) {
    int64_t V = weight.size(0), C = weight.size(1), N = targets.numel(), rows = chunk_rows(x, N, V);
    bool gradients = pass.dx.defined() || pass.dweight.defined();
    int64_t row_step = row_step_of(x.device(), V), dlogits_row_step = row_step;
    Tensor logits_chunk = float_tensor({std::min(rows, N), row_step}, x);
    // The gradients are rounded to the type of the other operands of their two products, as every activation gradient
    // is; float ones would be multiplied at half the speed. They take the place of the logits where they can.
    Tensor dlogits_chunk = logits_chunk;
    if (x.device().type == DeviceType::kCpu)
        dlogits_row_step = row_step * static_cast<int64_t>(size_of(DType::kFloat32) / size_of(x.dtype()));
    else if (gradients && x.dtype() != DType::kFloat32)
        dlogits_chunk = Tensor::empty(logits_chunk.shape(), x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        float *logits = logits_chunk.data<float>(), *dweight = pass.dweight.data<float>();
        auto add_weight_gradient = [&](const T* dlogits, const T* x_n, int64_t n, bool accumulate) {
            MatmulProblem problem{1, V, C, n, true, false};
            problem.accumulate = accumulate;
            problem.a_row_step = dlogits_row_step;
            multiply(backend, dweight, dlogits, x_n, problem);
        };
        if (dweight != nullptr && N == 0) add_weight_gradient(nullptr, nullptr, 0, pass.accumulate);
        for (int64_t first = 0; first < N; first += rows) {
            int64_t n = std::min(rows, N - first);
            const T* x_n = x.data<T>() + first * C;
            const int32_t* targets_n = targets.data<int32_t>() + first;
            float* lse_n = pass.lse.data<float>() + first;
            MatmulProblem logits_problem{1, n, V, C, false, true}, dx_problem{1, n, C, V};
            logits_problem.y_row_step = row_step;
            dx_problem.a_row_step = dlogits_row_step;
            multiply(backend, logits, x_n, weight.data<T>(), logits_problem);
            float* losses_n = pass.losses.defined() ? pass.losses.data<float>() + first : nullptr;
            const float* scale = pass.scale.defined() ? pass.scale.data<float>() : nullptr;
            T* dlogits = gradients ? static_cast<T*>(dlogits_chunk.raw()) : nullptr;
            if (losses_n != nullptr && gradients)
                cross_entropy_forward_backward(backend, losses_n, lse_n, dlogits, logits, scale, targets_n, n, V,
                                               row_step, dlogits_row_step, options.ignore_index,
                                               options.label_smoothing);
            else if (losses_n != nullptr)
                cross_entropy_forward(backend, losses_n, lse_n, logits, targets_n, n, V, row_step, options.ignore_index,
                                      options.label_smoothing);
            else if (gradients)
                cross_entropy_backward(backend, dlogits, pass.dloss.data<float>(), scale, logits, lse_n, targets_n, n,
                                       V, row_step, dlogits_row_step, options.ignore_index, options.label_smoothing);
            if (pass.dx.defined())
                multiply(backend, pass.dx.data<T>() + first * C, dlogits, weight.data<T>(), dx_problem);
            if (dweight != nullptr) add_weight_gradient(dlogits, x_n, n, pass.accumulate || first > 0);
        }
    });
}

}  // namespace

CrossEntropyOptions cross_entropy_options(int32_t ignore_index, float label_smoothing,
                                          std::optional<double> num_items) {
    LLMCORE_CHECK(label_smoothing >= 0.0f && label_smoothing <= 1.0f,
                  "cross_entropy: label_smoothing must be between 0 and 1, got ", label_smoothing);
    LLMCORE_CHECK(!num_items || *num_items > 0, "cross_entropy: num_items must be positive or None, got ",
                  num_items.value_or(0));
    return {ignore_index, label_smoothing, num_items.value_or(0)};
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const Tensor& logits, const Tensor& targets,
                                                         const CrossEntropyOptions& options) {
    check_logits("cross_entropy", logits, targets, options);
    Tensor losses = float_tensor(targets.shape(), logits), lse = float_tensor(targets.shape(), logits);
    dispatch(logits, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        cross_entropy_forward(backend, losses.data<float>(), lse.data<float>(), logits.data<T>(),
                              targets.data<int32_t>(), targets.numel(), logits.size(-1), logits.size(-1),
                              options.ignore_index, options.label_smoothing);
    });
    Tensor scale = scale_of(targets, options);
    return {reduce(losses, scale), lse, scale};
}

Tensor cross_entropy_backward(const Tensor& dloss, const Tensor& logits, const Tensor& lse, const Tensor& scale,
                              const Tensor& targets, const CrossEntropyOptions& options) {
    check_logits("cross_entropy_backward", logits, targets, options);
    check_kept("cross_entropy_backward", dloss, lse, scale, targets);
    Tensor dlogits = Tensor::empty(logits.shape(), logits.dtype(), logits.device());
    dispatch(logits, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        cross_entropy_backward(backend, dlogits.data<T>(), dloss.data<float>(), scale.data<float>(), logits.data<T>(),
                               lse.data<float>(), targets.data<int32_t>(), targets.numel(), logits.size(-1),
                               logits.size(-1), logits.size(-1), options.ignore_index, options.label_smoothing);
    });
    return dlogits;
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_forward(const Tensor& x, const Tensor& weight,
                                                                const Tensor& targets,
                                                                const CrossEntropyOptions& options) {
    check_linear("linear_cross_entropy", x, weight, targets, std::nullopt, options.ignore_index);
    Pass pass;
    pass.losses = float_tensor(targets.shape(), x);
    pass.lse = float_tensor(targets.shape(), x);
    run_chunks(pass, x, weight, targets, options);
    Tensor scale = scale_of(targets, options);
    return {reduce(pass.losses, scale), pass.lse, scale};
}

std::optional<Tensor> linear_cross_entropy_backward(const Tensor& dloss, const Tensor& x, const Tensor& weight,
                                                    const Tensor& lse, const Tensor& scale, const Tensor& targets,
                                                    std::optional<Tensor> dweight, bool needs_dx,
                                                    const CrossEntropyOptions& options, bool accumulate) {
    const char* op = "linear_cross_entropy_backward";
    check_linear(op, x, weight, targets, dweight, options.ignore_index);
    check_kept(op, dloss, lse, scale, targets);
    Pass pass;
    pass.lse = lse;
    pass.dloss = dloss;
    pass.scale = scale;
    pass.dweight = dweight.value_or(Tensor());
    pass.accumulate = accumulate;
    if (needs_dx) pass.dx = Tensor::empty(x.shape(), x.dtype(), x.device());
    run_chunks(pass, x, weight, targets, options);
    return needs_dx ? std::optional<Tensor>(pass.dx) : std::nullopt;
}

std::tuple<Tensor, std::optional<Tensor>> linear_cross_entropy_fused(const Tensor& x, const Tensor& weight,
                                                                     const Tensor& targets,
                                                                     std::optional<Tensor> dweight, bool needs_dx,
                                                                     const CrossEntropyOptions& options,
                                                                     bool accumulate) {
    check_linear("linear_cross_entropy", x, weight, targets, dweight, options.ignore_index);
    Pass pass;
    pass.losses = float_tensor(targets.shape(), x);
    pass.lse = float_tensor(targets.shape(), x);
    pass.scale = scale_of(targets, options);
    pass.dweight = dweight.value_or(Tensor());
    pass.accumulate = accumulate;
    if (needs_dx) pass.dx = Tensor::empty(x.shape(), x.dtype(), x.device());
    run_chunks(pass, x, weight, targets, options);
    return {reduce(pass.losses, pass.scale), needs_dx ? std::optional<Tensor>(pass.dx) : std::nullopt};
}

Tensor linear_cross_entropy_per_token(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                      int32_t ignore_index) {
    check_linear("linear_cross_entropy_per_token", x, weight, targets, std::nullopt, ignore_index);
    Pass pass;
    pass.losses = float_tensor(targets.shape(), x);
    pass.lse = float_tensor(targets.shape(), x);
    run_chunks(pass, x, weight, targets, {ignore_index, 0.0f, 0.0});
    return pass.losses;
}

}  // namespace llmcore
