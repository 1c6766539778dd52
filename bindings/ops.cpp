// One line per op, sorted by family. Every op releases the GIL while it runs.
#include "bindings.h"
#include "core/philox.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/layernorm.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/rmsnorm.h"
#include "ops/rope.h"
#include "ops/shape.h"
#include "ops/softmax.h"

namespace py = pybind11;
using namespace llmcore;
using py::arg;

void bind_ops(py::module_& m) {
    auto release = py::call_guard<py::gil_scoped_release>();

    // activation
    m.def("activation_forward", &activation_forward, arg("x"), arg("activation"), release);
    m.def("activation_backward", &activation_backward, arg("dy"), arg("x"), arg("activation"), release);
    m.def("sigmoid_forward", &sigmoid_forward, arg("x"), release);
    m.def("sigmoid_backward", &sigmoid_backward, arg("dy"), arg("y"), release);
    m.def("swiglu_forward", &swiglu_forward, arg("gate"), arg("up"), release);
    m.def("swiglu_backward", &swiglu_backward, arg("dy"), arg("gate"), arg("up"), release);

    // attention
    py::class_<AttentionOptions>(m, "AttentionOptions")
        .def(py::init<int64_t, int64_t, bool, std::optional<Tensor>, std::optional<float>, float, uint64_t, uint64_t>(),
             arg("num_heads"), arg("num_kv_heads"), arg("causal"), arg("lengths"), arg("scale"), arg("dropout_p"),
             arg("seed"), arg("offset"))
        .def_readonly("num_heads", &AttentionOptions::num_heads)
        .def_readonly("causal", &AttentionOptions::causal);
    m.def("attention_forward", &attention_forward, arg("q"), arg("k"), arg("v"), arg("options"), release);
    m.def("attention_backward", &attention_backward, arg("dout"), arg("q"), arg("k"), arg("v"), arg("out"), arg("lse"),
          arg("options"), release);
    m.def("attention_qkv_forward", &attention_qkv_forward, arg("qkv"), arg("options"), release);
    m.def("attention_qkv_backward", &attention_qkv_backward, arg("dout"), arg("qkv"), arg("out"), arg("lse"),
          arg("options"), release);
    m.def("attention_decode", &attention_decode, arg("q"), arg("k_cache"), arg("v_cache"), arg("num_heads"),
          arg("num_kv_heads"), arg("starts"), arg("lengths"), arg("scale"), release);

    // cross_entropy
    py::class_<CrossEntropyOptions>(m, "CrossEntropyOptions")
        .def(py::init(&cross_entropy_options), arg("ignore_index"), arg("label_smoothing"), arg("num_items"));
    m.def("cross_entropy_forward", &cross_entropy_forward, arg("logits"), arg("targets"), arg("options"), release);
    m.def("cross_entropy_backward", &cross_entropy_backward, arg("dloss"), arg("logits"), arg("lse"), arg("scale"),
          arg("targets"), arg("options"), release);
    m.def("linear_cross_entropy_forward", &linear_cross_entropy_forward, arg("x"), arg("weight"), arg("targets"),
          arg("options"), release);
    m.def("linear_cross_entropy_backward", &linear_cross_entropy_backward, arg("dloss"), arg("x"), arg("weight"),
          arg("lse"), arg("scale"), arg("targets"), arg("dweight"), arg("needs_dx"), arg("options"),
          arg("accumulate") = true, release);
    m.def("linear_cross_entropy_fused", &linear_cross_entropy_fused, arg("x"), arg("weight"), arg("targets"),
          arg("dweight"), arg("needs_dx"), arg("options"), arg("accumulate") = true, release);
    m.def("linear_cross_entropy_per_token", &linear_cross_entropy_per_token, arg("x"), arg("weight"), arg("targets"),
          arg("ignore_index") = -100, release);

    // dropout
    m.def("dropout", &dropout, arg("x"), arg("residual"), arg("p"), arg("seed"), arg("offset"), release);

    // elementwise
    m.def("add", &add, arg("a"), arg("b"), release);
    m.def("sub", &sub, arg("a"), arg("b"), release);
    m.def("mul", &mul, arg("a"), arg("b"), release);
    m.def("scale", &scale, arg("x"), arg("factor"), arg("offset") = 0.0, release);
    m.def("add_into", &add_into, arg("y"), arg("x"), release);

    // embedding
    m.def("embedding_forward", &embedding_forward, arg("ids"), arg("weight"), release);
    m.def("token_position_embedding_forward", &token_position_embedding_forward, arg("ids"), arg("positions"),
          arg("token_weight"), arg("position_weight"), release);
    m.def("embedding_backward", &embedding_backward, arg("dweight"), arg("dy"), arg("ids"), release);
    m.def("position_embedding_backward", &position_embedding_backward, arg("dweight"), arg("dy"), release);

    // layernorm
    m.def("layernorm_forward", &layernorm_forward, arg("x"), arg("weight"), arg("bias"), arg("epsilon"), release);
    m.def("residual_layernorm_forward", &residual_layernorm_forward, arg("x"), arg("residual"), arg("weight"),
          arg("bias"), arg("epsilon"), release);
    m.def("layernorm_backward", &layernorm_backward, arg("dy"), arg("dsum"), arg("x"), arg("weight"), arg("mean"),
          arg("rstd"), arg("dweight"), arg("dbias"), release);

    // matmul
    m.def("matmul", &matmul, arg("a"), arg("b"), arg("transpose_a") = false, arg("transpose_b") = false, release);
    m.def("matmul_add", &matmul_add, arg("y"), arg("a"), arg("b"), arg("transpose_a") = false,
          arg("transpose_b") = false, arg("accumulate") = true, release);
    m.def("linear_forward", &linear_forward, arg("x"), arg("weight"), arg("bias"), arg("activation"), arg("residual"),
          arg("transpose_weight"), arg("keep_pre_activation"), release);
    m.def("linear_activation_backward", &linear_activation_backward, arg("dy"), arg("weight"), arg("pre"),
          arg("activation"), arg("transpose_weight"), arg("dbias"), release);
    m.def("bias_activation_backward", &bias_activation_backward, arg("dy"), arg("pre"), arg("activation"), arg("dbias"),
          release);

    // norm
    m.def("global_norm", &global_norm, arg("tensors"), release);
    m.def("clip_factor", &clip_factor, arg("norm"), arg("max_norm"), release);
    m.def("all_finite", &all_finite, arg("x"), release);

    // optimizer
    m.def("adamw_step", &adamw_step, arg("params"), arg("master"), arg("grads"), arg("m"), arg("v"),
          arg("learning_rate"), arg("beta1"), arg("beta2"), arg("epsilon"), arg("weight_decay"), arg("step"),
          arg("grad_scale") = py::none(), arg("adam_l2") = false, arg("rounding_seed") = py::none(), release);
    m.def("sgd_step", &sgd_step, arg("params"), arg("master"), arg("grads"), arg("momentum_buffer"),
          arg("learning_rate"), arg("momentum"), arg("dampening"), arg("nesterov"), arg("weight_decay"), arg("step"),
          arg("grad_scale") = py::none(), arg("rounding_seed") = py::none(), release);
    m.def("rmsprop_step", &rmsprop_step, arg("params"), arg("master"), arg("grads"), arg("square_avg"),
          arg("momentum_buffer"), arg("learning_rate"), arg("alpha"), arg("epsilon"), arg("momentum"),
          arg("weight_decay"), arg("step"), arg("grad_scale") = py::none(), arg("rounding_seed") = py::none(), release);

    // philox
    m.def(
        "philox",
        [](uint64_t seed, uint64_t offset, uint64_t index) {
            Philox4 block = philox(seed, offset, index);
            return py::make_tuple(block.word[0], block.word[1], block.word[2], block.word[3]);
        },
        arg("seed"), arg("offset"), arg("index"));

    // reduce
    m.def("sum", &sum, arg("x"), release);
    m.def("mean", &mean, arg("x"), release);
    m.def("sum_backward", &sum_backward, arg("dy"), arg("shape"), arg("dtype"), release);
    m.def("mean_backward", &mean_backward, arg("dy"), arg("shape"), arg("dtype"), release);
    m.def("add_column_sums", &add_column_sums, arg("total"), arg("x"), release);

    // rmsnorm
    m.def("rmsnorm_forward", &rmsnorm_forward, arg("x"), arg("weight"), arg("epsilon"), release);
    m.def("residual_rmsnorm_forward", &residual_rmsnorm_forward, arg("x"), arg("residual"), arg("weight"),
          arg("epsilon"), release);
    m.def("rmsnorm_backward", &rmsnorm_backward, arg("dy"), arg("dsum"), arg("x"), arg("weight"), arg("rstd"),
          arg("dweight"), release);

    // rope
    m.def("rope_forward", &rope_forward, arg("x"), arg("cos_table"), arg("sin_table"), arg("positions"),
          arg("head_size"), arg("rotated"), release);
    m.def("rope_backward", &rope_backward, arg("dy"), arg("cos_table"), arg("sin_table"), arg("positions"),
          arg("head_size"), arg("rotated"), release);

    // shape
    m.def("permute", &permute, arg("x"), arg("axes"), release);
    m.def("concat", &concat_tensors, arg("tensors"), arg("axis"), release);
    m.def("split", &split, arg("x"), arg("sizes"), arg("axis"), release);

    // softmax
    m.def("softmax_forward", &softmax_forward, arg("x"), release);
    m.def("softmax_backward", &softmax_backward, arg("dy"), arg("y"), release);
}
