#include "ops/embedding.h"

#include "core/dispatch.h"
#include "core/index_check.h"
#include "kernels/embedding.h"

namespace llmcore {
namespace {

void check_table(const char* op, const char* name, const Tensor& weight) {
    check_float(op, name, weight);
    LLMCORE_CHECK(weight.dim() == 2, op, ": ", name, " must have shape (rows, channels), got ",
                  to_string(weight.shape()));
}

std::string sentence_of(const IndexRule& rule, int64_t element, int32_t id) {
    return concat(rule.op, ": ", rule.name, " has the id ", id, " at element ", element, ", but the table has ",
                  rule.rows, " rows (ids 0 to ", rule.rows - 1, ")");
}

void check_ids(const char* op, const char* name, const Tensor& ids, int64_t rows) {
    check_indices(ids, {op, name, rows, kNoIgnoredIndex, sentence_of});
}

template <class T>
EmbeddingTable<T> table_of(const Tensor& weight) {
    return {weight.data<T>(), weight.defined() ? weight.size(0) : 0};
}

Tensor forward(const Tensor& ids, const Tensor& positions, const Tensor& weight, const Tensor& position_weight) {
    int64_t C = weight.size(1);
    Shape shape = ids.shape();
    shape.push_back(C);
    Tensor y = Tensor::empty(shape, weight.dtype(), weight.device());
    dispatch(weight, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        embedding_forward(backend, y.data<T>(), ids.data<int32_t>(), positions.data<int32_t>(), table_of<T>(weight),
                          table_of<T>(position_weight), ids.numel(), ids.dim() > 0 ? ids.size(-1) : 1, C);
    });
    return y;
}

void backward(const Tensor& dweight, const Tensor& dy, const Tensor& ids, int64_t T_size) {
    int64_t V = dweight.size(0), C = dweight.size(1), N = C > 0 ? dy.numel() / C : 0;
    dispatch(dy, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        EmbeddingWorkspace sizes = embedding_backward_workspace(backend, ids.data<int32_t>(), N, C);
        Tensor indices = Tensor::empty({static_cast<int64_t>(sizes.indices)}, DType::kInt32, dy.device());
        Tensor sums = float_workspace(sizes.sums, dy.device());
        embedding_backward(backend, dweight.data<float>(), dy.data<T>(), ids.data<int32_t>(), indices.data<int32_t>(),
                           sums.data<float>(), N, T_size, V, C);
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
