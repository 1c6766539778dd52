"""The profile of a step: every op is seen, put back afterwards, and counted as the shapes say."""

from __future__ import annotations

import time

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import tensor
from llmcore.models import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from llmcore.optim import SGD, AdamW, RMSprop
from llmcore.profiling import profile_step, record
from llmcore.profiling.step import BETWEEN, language_model_step

GPT2 = GPT2Config(vocab_size=97, n_positions=32, n_embd=24, n_layer=2, n_head=3, resid_pdrop=0, embd_pdrop=0)
LLAMA = LlamaConfig(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=32,
)
BERT = BertConfig(
    vocab_size=97,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    hidden_dropout_prob=0,
)


def values(*shape: int) -> _core.Tensor:
    return _core.from_numpy(np.ones(shape, np.float32))


def one_call(op, *arguments, **named):
    with record() as recording:
        getattr(_core, op)(*arguments, **named)
    (call,) = [call for call in recording.calls if call.op == op]
    return call.cost


def test_every_op_is_put_back_even_after_an_error():
    def everything() -> dict[str, object]:
        ops = {name: getattr(_core, name) for name in dir(_core)}
        return ops | {f"Tensor.{name}": getattr(_core.Tensor, name) for name in dir(_core.Tensor) if name[0] != "_"}

    before = everything()
    with pytest.raises(ValueError, match="matmul"), record() as recording:
        changed = {name for name, op in everything().items() if op is not before[name]}
        _core.matmul(values(2, 3), values(4, 5))
    assert everything() == before
    assert {call.op for call in recording.calls} == {"from_numpy"}  # the call that failed is none
    # All that computes, and nothing else; an op that is added belongs to it without a change here.
    assert {"matmul", "adamw_step", "layernorm_backward", "zeros", "Tensor.fill_", "Tensor.copy_"} <= changed
    assert not changed & {"DType", "Tensor", "num_threads", "memory_stats", "Tensor.shape", "Tensor.view"}


def test_operations_and_bytes_of_products():
    cost = one_call("matmul", values(5, 2, 3), values(3, 7))
    assert cost.flops == 2 * 5 * 2 * 3 * 7 and cost.nbytes == 4 * (5 * 2 * 3 + 3 * 7 + 5 * 2 * 7)
    assert cost.shape == "a b 5 x 2 x 7 x 3"
    cost = one_call("matmul", values(3, 2), values(7, 3), transpose_a=True, transpose_b=True)
    assert cost.flops == 2 * 2 * 3 * 7 and cost.shape == "a^T b^T 2 x 7 x 3"
    cost = one_call("matmul_add", values(2, 7), values(3, 2), values(3, 7), True, False)
    assert cost.flops == 2 * 2 * 3 * 7 and cost.nbytes == 4 * (3 * 2 + 3 * 7 + 2 * (2 * 7))  # y is read and written
    cost = one_call("matmul_add", values(2, 7), values(3, 2), values(3, 7), True, False, False)
    assert cost.nbytes == 4 * (3 * 2 + 3 * 7 + 2 * 7)
    cost = one_call("linear_forward", values(2, 5, 3), values(7, 3), None, "gelu", None, True, True)
    assert cost.flops == 2 * 10 * 3 * 7 and cost.nbytes == 4 * (2 * 5 * 3 + 7 * 3 + 2 * (10 * 7))
    assert cost.shape == "a b^T 10 x 7 x 3 gelu"


def test_operations_of_attention():
    def options(causal: bool) -> _core.AttentionOptions:
        return _core.AttentionOptions(3, 3, causal, None, None, 0.0, 0, 0)

    q, kv = values(2, 5, 12), values(2, 8, 12)
    assert one_call("attention_forward", q, kv, kv, options(False)).flops == 4 * 2 * 5 * 8 * 12
    seen = 4 + 5 + 6 + 7 + 8  # keys of the five queries, the last of which sees all eight
    cost = one_call("attention_forward", q, kv, kv, options(True))
    assert cost.flops == 4 * 2 * seen * 12 and cost.shape == "2 x 5 x 8 x 12 causal, 3 heads"
    out, lse = _core.attention_forward(q, kv, kv, options(True))
    backward = one_call("attention_backward", q, q, kv, kv, out, lse, options(True))
    assert backward.flops == 2.5 * cost.flops
    qkv = values(2, 5, 36)
    out, lse = _core.attention_qkv_forward(qkv, options(True))
    forward = one_call("attention_qkv_forward", qkv, options(True))
    assert forward.flops == 4 * 2 * (1 + 2 + 3 + 4 + 5) * 12
    assert one_call("attention_qkv_backward", out, qkv, out, lse, options(True)).flops == 2.5 * forward.flops


def test_bytes_of_what_is_not_a_product():
    assert one_call("add", values(3, 4), values(3, 4)).nbytes == 3 * 48
    assert one_call("add_into", values(3, 4), values(3, 4)).nbytes == 3 * 48
    assert one_call("zeros", (3, 4)).nbytes == 48 and one_call("empty", (3, 4)).nbytes == 0
    ids = _core.from_numpy(np.array([1, 2, 1]))
    assert one_call("embedding_forward", ids, values(1000, 4)).nbytes == 2 * 3 * 16  # not the table
    x, state = values(64), [values(64) for _ in range(3)]
    rates = (0.1, 0.9, 0.99, 1e-8, 0.0, 1)
    assert one_call("adamw_step", x, None, *state, *rates).nbytes == 256 * (2 + 1 + 4)
    half = x.cast(_core.DType.bfloat16)
    assert one_call("adamw_step", half, x, *state, *rates).nbytes == 128 + 256 * (2 + 1 + 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_the_products_of_a_step_are_those_of_the_model(kind, dtype):
    """6 operations per weight and token, and the attention: nothing is left out and nothing counted twice."""
    B, T, C, layers = 3, 16, 24, 2
    random = np.random.default_rng(0)
    ids = labels = random.integers(0, 97, (B, T))
    scored, items, pairs = B * T, B * (T - 1), T * (T + 1) / 2
    if kind == "bert":
        labels, items, pairs = np.where(random.random((B, T)) < 0.3, ids, -100), None, T * T
        scored = (labels != -100).sum()
        model = BertForMaskedLM(BERT)
        weights, head = layers * (4 * C * C + 2 * C * 40) * B * T, scored * (97 * C + C * C)
    elif kind == "llama":
        model = LlamaForCausalLM(LLAMA)
        weights, head = layers * (4 * C * C + 3 * C * 40) * B * T, scored * 97 * C
    else:
        model = GPT2LMHeadModel(GPT2)
        weights, head = layers * 12 * C * C * B * T, scored * 97 * C
    step = language_model_step(model.train(), AdamW(model, dtype=getattr(_core.DType, dtype)), ids, labels, items)
    profile = profile_step(step, steps=2, by_shape=True, warm_up=1)
    attention = layers * (4 + 10) * B * pairs * C
    assert sum(row.flops for row in profile.rows) == pytest.approx(6 * (weights + head) + attention)
    assert sum(row.share for row in profile.rows) == pytest.approx(1.0)
    assert sum(row.seconds for row in profile.rows) == pytest.approx(profile.seconds)
    times = [row.seconds for row in profile.rows if row.op != BETWEEN]
    assert times == sorted(times, reverse=True) and profile.rows[-1].op == BETWEEN
    assert all(row.limit for row in profile.rows if row.flops)


def test_the_limit_that_binds(monkeypatch):
    monkeypatch.setattr("llmcore.profiling.step.matmul_peak_flops", lambda dtype, device: 1e3)
    monkeypatch.setattr("llmcore.profiling.step.memory_bandwidth", lambda nbytes, device: 1e3)
    x, weight = tensor(np.ones((8, 64))), tensor(np.ones((64, 64)))

    def step() -> None:
        F.add(F.matmul(x, weight), x)
        time.sleep(0.001)

    product, addition, between = sorted(profile_step(step, steps=2).rows, key=lambda row: -row.flops)
    assert (product.op, product.limit, product.calls) == ("matmul", "matmul", 1)
    assert product.percent == pytest.approx(100 * (product.flops / 1e3) / product.seconds)
    assert product.rate == pytest.approx(product.flops / product.seconds)
    assert (addition.op, addition.limit) == ("add", "memory")
    assert addition.percent == pytest.approx(100 * (3 * 8 * 64 * 4 / 1e3) / addition.seconds)
    assert addition.rate == pytest.approx(addition.nbytes / addition.seconds)
    assert between.op == BETWEEN and between.seconds > 0.0009


@pytest.mark.parametrize("optimizer", [SGD, RMSprop])
def test_other_optimizers_and_recomputed_activations(optimizer):
    model = GPT2LMHeadModel(GPT2)
    model.gradient_checkpointing_enable()
    ids = np.zeros((2, 8), np.int64)
    step = language_model_step(model.train(), optimizer(model), ids, ids, 14, max_grad_norm=0.0)
    rows = {row.op: row for row in profile_step(step, steps=1).rows}
    assert rows["linear_forward"].calls == 16  # two layers of four, twice
    update = rows["sgd_step" if optimizer is SGD else "rmsprop_step"]
    numbers = sum(parameter.data.numel for parameter in model.parameters())
    assert update.nbytes == pytest.approx(4 * numbers * (3 if optimizer is SGD else 5), rel=0.02)  # some padding
