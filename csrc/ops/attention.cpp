#include "ops/attention.h"

#include <cmath>

#include "core/dispatch.h"
#include "core/index_check.h"
#include "kernels/attention.h"

namespace llmcore {
namespace {

// Up to this many new positions the cache is read in place; beyond, packing it pays.
constexpr int64_t kDecodeQueries = 4;

void check_options(const char* op, const AttentionOptions& options) {
    int64_t NH = options.num_heads, NKV = options.num_kv_heads;
    LLMCORE_CHECK(NH >= 1 && NKV >= 1 && NH % NKV == 0, op,
                  ": num_heads must be a positive multiple of num_kv_heads, got ", NH, " and ", NKV);
    LLMCORE_CHECK(options.dropout_p >= 0.0f && options.dropout_p < 1.0f, op,
                  ": dropout_p must be at least 0 and below 1, got ", options.dropout_p);
}

std::string sentence_of(const IndexRule& rule, int64_t row, int32_t count) {
    return concat(rule.op, ": ", rule.name, " must be from 0 to ", rule.rows - 1, ", got ", count, " in row ", row);
}

void check_counts(const char* op, const char* name, const Tensor& counts, int64_t B, int64_t highest) {
    check_dtype(op, name, counts, DType::kInt32);
    check_shape(op, name, counts, {B});
    check_indices(counts, {op, name, highest + 1, kNoIgnoredIndex, sentence_of});
}

// The elements of counts, which have to be on the device of the other tensors.
const int32_t* elements_on(Device device, const Tensor& counts) {
    RunningOn running(device);
    return counts.data<int32_t>();
}

// Fills in what follows from HS and the options; sizes and strides are the caller's.
AttentionProblem describe(const char* op, const AttentionOptions& options, Device device, int64_t B, int64_t Tq,
                          int64_t Tk, int64_t HS) {
    LLMCORE_CHECK(HS >= 1 && HS <= 256, op, ": the size of a head must be from 1 to 256, got ", HS);
    if (options.lengths) check_counts(op, "lengths", *options.lengths, B, Tk);
    AttentionProblem p{};
    p.B = B, p.NH = options.num_heads, p.NKV = options.num_kv_heads, p.Tq = Tq, p.Tk = Tk, p.HS = HS;
    p.q_stride = p.NH * HS, p.k_stride = p.v_stride = p.NKV * HS;
    p.causal = options.causal ? Causal::kLastKey : Causal::kNone;
    p.lengths = elements_on(device, options.lengths.value_or(Tensor()));
    p.scale = options.scale.value_or(1.0f / std::sqrt(static_cast<float>(HS)));
    p.dropout_p = options.dropout_p, p.seed = options.seed, p.offset = options.offset;
    return p;
}

AttentionProblem problem_of(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                            const AttentionOptions& options) {
    check_options(op, options);
    check_float(op, "q", q);
    check_dtype(op, "k", k, q.dtype());
    check_dtype(op, "v", v, q.dtype());
    int64_t NH = options.num_heads;
    LLMCORE_CHECK(q.dim() == 3 && q.size(2) % NH == 0, op, ": q must have shape (B, Tq, ", NH, " * HS), got ",
                  to_string(q.shape()));
    int64_t HS = q.size(2) / NH, width = options.num_kv_heads * HS;
    LLMCORE_CHECK(k.dim() == 3 && k.size(0) == q.size(0) && k.size(2) == width, op, ": k must have shape (", q.size(0),
                  ", Tk, ", width, "), got ", to_string(k.shape()));
    check_shape(op, "v", v, k.shape());
    return describe(op, options, q.device(), q.size(0), q.size(1), k.size(1), HS);
}

AttentionProblem packed_problem_of(const char* op, const Tensor& qkv, const AttentionOptions& options) {
    check_options(op, options);
    check_float(op, "qkv", qkv);
    LLMCORE_CHECK(qkv.dim() == 3 && options.num_heads <= qkv.size(2), op, ": qkv must have shape (B, T, C) with C of ",
                  "at least num_heads = ", options.num_heads, ", got ", to_string(qkv.shape()));
    int64_t heads = options.num_heads + 2 * options.num_kv_heads;
    LLMCORE_CHECK(qkv.size(2) % heads == 0, op, ": qkv must have shape (B, T, ", heads, " * HS), got ",
                  to_string(qkv.shape()));
    AttentionProblem p =
        describe(op, options, qkv.device(), qkv.size(0), qkv.size(1), qkv.size(1), qkv.size(2) / heads);
    p.q_stride = p.k_stride = p.v_stride = qkv.size(2);
    return p;
}

void check_backward(const char* op, const Tensor& dout, const Tensor& out, const Tensor& lse, DType dtype,
                    const AttentionProblem& p) {
    for (auto [name, tensor] : {std::pair{"dout", &dout}, std::pair{"out", &out}}) {
        check_dtype(op, name, *tensor, dtype);
        check_shape(op, name, *tensor, {p.B, p.Tq, p.NH * p.HS});
    }
    check_dtype(op, "lse", lse, DType::kFloat32);
    check_shape(op, "lse", lse, {p.B, p.NH, p.Tq});
}

// q is the tensor that names device and type; the pointers may lead into one packed array.
template <class T, class Backend>
void forward(Backend backend, const Tensor& out, float* lse, const Tensor& q, const T* k, const T* v,
             const AttentionProblem& p) {
    dispatch_product<T, T>(backend, [&](auto level) {
        Tensor workspace = float_workspace(attention_forward_workspace(level, p), q.device());
        attention_forward(level, out.data<T>(), lse, q.data<T>(), k, v, workspace.data<float>(), p);
    });
}

std::tuple<Tensor, Tensor> empty_results(const Tensor& q, const AttentionProblem& p) {
    return {Tensor::empty({p.B, p.Tq, p.NH * p.HS}, q.dtype(), q.device()),
            Tensor::empty({p.B, p.NH, p.Tq}, DType::kFloat32, q.device())};
}

template <class T, class Backend>
void backward(Backend backend, T* dq, T* dk, T* dv, const Tensor& dout, const T* q, const T* k, const T* v,
              const Tensor& out, const Tensor& lse, const AttentionProblem& p) {
    dispatch_product<T, T>(backend, [&](auto level) {
        Tensor workspace = float_workspace(attention_backward_workspace(level, p), out.device());
        attention_backward(level, dq, dk, dv, dout.data<T>(), q, k, v, out.data<T>(), lse.data<float>(),
                           workspace.data<float>(), p);
    });
}

}  // namespace

std::tuple<Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const AttentionOptions& options) {
    AttentionProblem p = problem_of("attention_forward", q, k, v, options);
    auto [out, lse] = empty_results(q, p);
    dispatch(q, [&, &out = out, &lse = lse](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        forward<T>(backend, out, lse.data<float>(), q, k.data<T>(), v.data<T>(), p);
    });
    return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                                      const Tensor& v, const Tensor& out, const Tensor& lse,
                                                      const AttentionOptions& options) {
    AttentionProblem p = problem_of("attention_backward", q, k, v, options);
    check_backward("attention_backward", dout, out, lse, q.dtype(), p);
    Tensor dq = Tensor::empty(q.shape(), q.dtype(), q.device());
    Tensor dk = Tensor::empty(k.shape(), q.dtype(), q.device());
    Tensor dv = Tensor::empty(v.shape(), q.dtype(), q.device());
    dispatch(q, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        backward(backend, dq.data<T>(), dk.data<T>(), dv.data<T>(), dout, q.data<T>(), k.data<T>(), v.data<T>(), out,
                 lse, p);
    });
    return {dq, dk, dv};
}

std::tuple<Tensor, Tensor> attention_qkv_forward(const Tensor& qkv, const AttentionOptions& options) {
    AttentionProblem p = packed_problem_of("attention_qkv_forward", qkv, options);
    auto [out, lse] = empty_results(qkv, p);
    dispatch(qkv, [&, &out = out, &lse = lse](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        const T* k = qkv.data<T>() + p.NH * p.HS;
        forward<T>(backend, out, lse.data<float>(), qkv, k, k + p.NKV * p.HS, p);
    });
    return {out, lse};
}

Tensor attention_qkv_backward(const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                              const AttentionOptions& options) {
    AttentionProblem p = packed_problem_of("attention_qkv_backward", qkv, options);
    check_backward("attention_qkv_backward", dout, out, lse, qkv.dtype(), p);
    Tensor dqkv = Tensor::empty(qkv.shape(), qkv.dtype(), qkv.device());
    dispatch(qkv, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        int64_t k_at = p.NH * p.HS, v_at = k_at + p.NKV * p.HS;
        T* dq = dqkv.data<T>();
        const T* q = qkv.data<T>();
        backward(backend, dq, dq + k_at, dq + v_at, dout, q, q + k_at, q + v_at, out, lse, p);
    });
    return dqkv;
}

Tensor attention_decode(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache, int64_t num_heads,
                        int64_t num_kv_heads, const Tensor& starts, const Tensor& lengths, std::optional<float> scale) {
    const char* op = "attention_decode";
    AttentionOptions options{num_heads, num_kv_heads, true, lengths, scale};
    AttentionProblem p = problem_of(op, q, k_cache, v_cache, options);
    check_counts(op, "starts", starts, p.B, p.Tk);
    p.causal = Causal::kLastValidKey;
    p.starts = elements_on(q.device(), starts);
    Tensor out = Tensor::empty(q.shape(), q.dtype(), q.device());
    dispatch(q, [&](auto backend, auto tag) {
        using T = typename decltype(tag)::type;
        if (p.Tq <= kDecodeQueries) {
            Tensor workspace = float_workspace(attention_decode_workspace(backend, p), q.device());
            attention_decode(backend, out.data<T>(), q.data<T>(), k_cache.data<T>(), v_cache.data<T>(),
                             workspace.data<float>(), p);
        } else {
            forward<T>(backend, out, nullptr, q, k_cache.data<T>(), v_cache.data<T>(), p);
        }
    });
    return out;
}

}  // namespace llmcore
