#include "ops/embedding.h"

#include "core/dispatch.h"
#include "kernels/embedding.h"

namespace llmcore {
namespace {

void check_table(const char* op, const char* name, const Tensor& weight) {
    check_float(op, name, weight);
    LLMCORE_CHECK(weight.dim() == 2, op, ": ", name, " must have shape (rows, channels), got ",
                  to_string(weight.shape()));
}

void check_ids(const char* op, const char* name, const Tensor& ids, int64_t rows) {
    check_dtype(op, name, ids, DType::kInt32);
    const int32_t* values = ids.data<int32_t>();
    for (int64_t n = 0; n < ids.numel(); ++n)
        if (values[n] < 0 || values[n] >= rows)
            throw std::out_of_range(concat(op, ": ", name, " has the id ", values[n], " at element ", n,
                                           ", but the table has ", rows, " rows (ids 0 to ", rows - 1, ")"));
}

Tensor forward(const Tensor& ids, const Tensor& positions, const Tensor& weight, const Tensor& position_weight) {
    int64_t C = weight.size(1);
    Shape shape = ids.shape();
    shape.push_back(C);
    Tensor y = Tensor::empty(shape, weight.dtype(), weight.device());
    dispatch(weight, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        embedding_forward(backend, y.data<T>(), ids.data<int32_t>(), positions.data<int32_t>(), weight.data<T>(),
                          position_weight.data<T>(), ids.numel(), ids.dim() > 0 ? ids.size(-1) : 1, C);
    });
    return y;
}

void backward(const Tensor& dweight, const Tensor& dy, const Tensor& ids, int64_t T_size) {
    int64_t C = dweight.size(1);
    dispatch(dy, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        embedding_backward(backend, dweight.data<float>(), dy.data<T>(), ids.data<int32_t>(),
                           C > 0 ? dy.numel() / C : 0, T_size, C);
    });
}

}  // namespace

Tensor embedding_forward(const Tensor& ids, const Tensor& weight) {
    check_table("embedding", "weight", weight);
    check_ids("embedding", "ids", ids, weight.size(0));
    return forward(ids, Tensor(), weight, Tensor());
}

Tensor token_position_embedding_forward(const Tensor& ids, std::optional<Tensor> positions, const Tensor& token_weight,
                                        const Tensor& position_weight) {
    const char* op = "token_position_embedding";
    check_table(op, "token_weight", token_weight);
    check_table(op, "position_weight", position_weight);
    check_dtype(op, "position_weight", position_weight, token_weight.dtype());
    check_shape(op, "position_weight", position_weight, {position_weight.size(0), token_weight.size(1)});
    LLMCORE_CHECK(ids.dim() == 2, op, ": ids must have shape (B, T), got ", to_string(ids.shape()));
    check_ids(op, "ids", ids, token_weight.size(0));
    int64_t T = ids.size(1), P = position_weight.size(0);
    if (positions) {
        check_shape(op, "positions", *positions, ids.shape());
        check_ids(op, "positions", *positions, P);
    } else if (T > P) {
        throw std::out_of_range(concat(op, ": the sequence is ", T, " tokens long, but the table of positions has ", P,
                                       " rows; shorten the sequence"));
    }
    return forward(ids, positions.value_or(Tensor()), token_weight, position_weight);
}

void embedding_backward(const Tensor& dweight, const Tensor& dy, const Tensor& ids) {
    const char* op = "embedding_backward";
    check_table(op, "dweight", dweight);
    check_dtype(op, "dweight", dweight, DType::kFloat32);
    check_ids(op, "ids", ids, dweight.size(0));
    check_float(op, "dy", dy);
    Shape shape = ids.shape();
    shape.push_back(dweight.size(1));
    check_shape(op, "dy", dy, shape);
    backward(dweight, dy, ids, 1);
}

void position_embedding_backward(const Tensor& dweight, const Tensor& dy) {
    const char* op = "position_embedding_backward";
    check_table(op, "dweight", dweight);
    check_dtype(op, "dweight", dweight, DType::kFloat32);
    check_float(op, "dy", dy);
    LLMCORE_CHECK(dy.dim() == 3 && dy.size(1) <= dweight.size(0) && dy.size(2) == dweight.size(1), op,
                  ": dy must have shape (B, T, ", dweight.size(1), ") with T up to ", dweight.size(0), ", got ",
                  to_string(dy.shape()));
    backward(dweight, dy, Tensor(), dy.size(1));
}

}  // namespace llmcore
