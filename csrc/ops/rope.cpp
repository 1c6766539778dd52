#include "ops/rope.h"

#include "core/dispatch.h"
#include "core/index_check.h"
#include "kernels/rope.h"

namespace llmcore {
namespace {

std::string sentence_of(const IndexRule& rule, int64_t element, int32_t position) {
    return concat(rule.op, ": ", rule.name, " has ", position, " at element ", element, ", but the tables have ",
                  rule.rows, " positions (0 to ", rule.rows - 1, ")");
}

void check_positions(const char* op, const Tensor& x, const std::optional<Tensor>& positions, int64_t P) {
    int64_t T = x.size(1);
    if (!positions) {
        if (T > P)
            throw std::out_of_range(concat(op, ": the sequence is ", T, " tokens long, but the tables have ", P,
                                           " positions; make larger tables"));
        return;
    }
    check_dtype(op, "positions", *positions, DType::kInt32);
    check_shape(op, "positions", *positions, {x.size(0), T});
    check_indices(*positions, {op, "positions", P, kNoIgnoredIndex, sentence_of});
}

void check_arguments(const char* op, const Tensor& x, const Tensor& cos_table, const Tensor& sin_table,
                     const std::optional<Tensor>& positions, int64_t HS, int64_t rotated) {
    check_float(op, "x", x);
    LLMCORE_CHECK(x.dim() == 3 && HS > 0 && x.size(2) % HS == 0, op, ": x must have shape (B, T, heads * ", HS,
                  "), got ", to_string(x.shape()));
    int64_t heads = x.size(2) / HS;
    LLMCORE_CHECK(rotated >= 0 && rotated <= heads, op, ": rotated must be from 0 to the ", heads, " heads of x, got ",
                  rotated);
    check_dtype(op, "cos_table", cos_table, DType::kFloat32);
    check_dtype(op, "sin_table", sin_table, DType::kFloat32);
    LLMCORE_CHECK(cos_table.dim() == 2 && 2 * cos_table.size(1) <= HS, op,
                  ": cos_table must have shape (positions, up to head_size / 2 = ", HS / 2, "), got ",
                  to_string(cos_table.shape()));
    check_shape(op, "sin_table", sin_table, cos_table.shape());
    check_positions(op, x, positions, cos_table.size(0));
}

// Inside a dispatch: reads addresses.
RopeProblem problem_of(const Tensor& x, const Tensor& cos_table, const Tensor& sin_table,
                       const std::optional<Tensor>& positions, int64_t HS, int64_t rotated) {
    return {x.size(0) * x.size(1),
            x.size(1),
            cos_table.size(0),
            x.size(2) / HS,
            rotated,
            HS,
            cos_table.size(1),
            positions.value_or(Tensor()).data<int32_t>(),
            cos_table.data<float>(),
            sin_table.data<float>()};
}

}  // namespace

Tensor rope_forward(const Tensor& x, const Tensor& cos_table, const Tensor& sin_table, std::optional<Tensor> positions,
                    int64_t head_size, int64_t rotated) {
    check_arguments("rope_forward", x, cos_table, sin_table, positions, head_size, rotated);
    Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
    dispatch(x, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        rope_forward(backend, y.data<T>(), x.data<T>(),
                     problem_of(x, cos_table, sin_table, positions, head_size, rotated));
    });
    return y;
}

Tensor rope_backward(const Tensor& dy, const Tensor& cos_table, const Tensor& sin_table,
                     std::optional<Tensor> positions, int64_t head_size, int64_t rotated) {
    check_arguments("rope_backward", dy, cos_table, sin_table, positions, head_size, rotated);
    Tensor dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    dispatch(dy, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        rope_backward(backend, dx.data<T>(), dy.data<T>(),
                      problem_of(dy, cos_table, sin_table, positions, head_size, rotated));
    });
    return dx;
}

}  // namespace llmcore
