"""The memory plan: its parts, what is available, and the advice where it does not fit."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from llmcore import _core
from llmcore.errors import OutOfMemoryError
from llmcore.models import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)
from llmcore.optim import AdamW
from llmcore.training import memory_plan
from llmcore.training.memory_plan import MemoryPlan, available_memory, plan_memory, refuse

CONFIG = GPT2Config(vocab_size=512, n_positions=128, n_embd=64, n_layer=4, n_head=4)


def plan(**changes) -> MemoryPlan:
    settings = {"batch_size": 8, "sequence_length": 128, "available": 1 << 40, **changes}
    return plan_memory(CONFIG, 1_000_000, **settings)


@pytest.mark.parametrize(
    "settings, weights, optimizer",
    [
        ({}, 4, 8),
        ({"bf16": True}, 2, 12),
        ({"optim": "sgd"}, 4, 0),
        ({"optim": "sgd", "momentum": True, "bf16": True}, 2, 8),
        ({"optim": "rmsprop"}, 4, 4),
    ],
)
def test_bytes_per_parameter(settings, weights, optimizer):
    made = plan_memory(None, 1 << 20, batch_size=1, sequence_length=1, available=1, **settings)
    expected = (weights << 20, 4 << 20, optimizer << 20)
    assert (made.weights, made.gradients, made.optimizer) == expected


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing():
    base = plan()
    assert plan(batch_size=16).activations == pytest.approx(2 * base.activations, rel=0.125)  # blocks are rounded up
    assert plan(bf16=True).activations < 0.6 * base.activations
    assert plan(activation_checkpointing=True).activations < 0.6 * base.activations


def test_render_is_one_line_that_adds_up():
    text = MemoryPlan(1 << 29, 1 << 29, 1 << 30, 3 << 30, 1 << 28, 24 << 30, "cpu").render()
    assert text == (
        "memory: weights 0.5 + gradients 0.5 + optimizer 1.0 + activations 3.0 + workspace 0.2 = 5.2 of 24.0 GiB (cpu)"
    )
    assert "no count for this architecture" in MemoryPlan(1, 1, 1, None, 0, 9, "cpu").render()


def replan(base, limit):
    return lambda **changes: plan(**{**base, **changes, "available": limit})


def test_advice_fits_and_keeps_the_update():
    base = {"batch_size": 8, "sequence_length": 128, "activation_checkpointing": False}
    limit = plan(batch_size=2).total
    error = refuse(plan(available=limit), replan(base, limit), accumulation=3)
    assert isinstance(error, OutOfMemoryError) and isinstance(error, MemoryError)
    assert "per_device_train_batch_size=2 with gradient_accumulation_steps=12" in str(error)
    assert "activation_checkpointing=True" in str(error)
    assert "most goes to activations" in str(error)
    hopeless = refuse(plan(available=1000), replan(base, 1000), accumulation=1)
    assert "choose a smaller model" in str(hopeless)
    limit = plan(batch_size=1, activation_checkpointing=True, sequence_length=64).total
    shorter = refuse(plan(available=limit), replan({**base, "batch_size": 1}, limit), accumulation=1)
    assert "blocks of 64 tokens" in str(shorter)


def test_available_memory_obeys_the_cgroup(tmp_path, monkeypatch):
    assert 1 << 20 < available_memory() <= memory_plan._meminfo("MemTotal")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    monkeypatch.setattr(memory_plan, "_cgroup", lambda name: tmp_path / name)
    assert available_memory() == 650_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 1 << 20


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "sizes, batch_size, length, checkpointing",
    [
        ({"n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": 512}, 8, 128, False),
        ({"n_embd": 192, "n_layer": 6, "n_head": 8, "vocab_size": 8000}, 4, 200, False),
        ({"n_embd": 192, "n_layer": 6, "n_head": 8, "vocab_size": 8000}, 4, 200, True),
        ({"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 50257}, 8, 128, False),
        (
            {"n_embd": 128, "n_layer": 8, "n_head": 16, "vocab_size": 512, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
            16,
            64,
            False,
        ),
    ],
)
def test_plan_is_within_five_per_cent_of_the_measured_peak(sizes, batch_size, length, checkpointing, bf16):
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(n_positions=256, **{**dropout, **sizes})
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, length))
    inputs = dict(input_ids=ids, labels=ids, num_items_in_batch=batch_size * (length - 1))
    measured, planned = measure(GPT2LMHeadModel, config, inputs, bf16, checkpointing)
    assert planned.total == pytest.approx(measured, rel=0.05), planned.render()


def measure(kind, config, inputs, bf16, checkpointing=False):
    """(peak of a training step, its plan)"""
    gc.collect()
    before = _core.memory_stats("cpu")["allocated"]
    model = kind(config, dtype=_core.DType.bfloat16 if bf16 else _core.DType.float32)
    model.activation_checkpointing = checkpointing
    optimizer = AdamW(model)
    model.train()
    for _ in range(2):
        _core.reset_peak_memory("cpu")
        model(**inputs).loss.backward()
        optimizer.step()
    measured = _core.memory_stats("cpu")["peak_allocated"] - before
    batch_size, length = inputs["input_ids"].shape
    planned = plan_memory(
        config,
        model.num_parameters(),
        batch_size=batch_size,
        sequence_length=length,
        bf16=bf16,
        activation_checkpointing=checkpointing,
        predicts_words="SequenceClassification" not in kind.__name__,
        available=1 << 40,
    )
    return measured, planned


LLAMA = LlamaConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=256,
)
GROUPED = LLAMA.replace(
    vocab_size=8000, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=8, head_dim=None
).replace(num_key_value_heads=4, tie_word_embeddings=True)
BERT = BertConfig(
    vocab_size=512,
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=512,
    max_position_embeddings=256,
)
WIDE = BERT.replace(vocab_size=8000, hidden_size=192, num_hidden_layers=6, num_attention_heads=8, intermediate_size=768)


@pytest.mark.parametrize(
    "kind, config, shape, bf16, checkpointing",
    [
        (LlamaForCausalLM, GROUPED, (4, 200), False, False),
        (LlamaForCausalLM, GROUPED, (4, 200), True, True),
        (LlamaForCausalLM, LLAMA, (8, 128), False, True),
        (LlamaForCausalLM, LLAMA, (8, 128), True, False),
        (LlamaForSequenceClassification, LLAMA.replace(pad_token_id=0), (8, 128), False, False),
        (BertForMaskedLM, WIDE, (4, 200), False, False),
        (BertForMaskedLM, WIDE, (4, 200), True, True),
        (BertForMaskedLM, BERT, (8, 128), False, True),
        (BertForMaskedLM, BERT, (8, 128), True, False),
        (BertForSequenceClassification, BERT, (8, 128), False, False),
    ],
)
def test_llama_and_bert(kind, config, shape, bf16, checkpointing):
    ids = np.random.default_rng(0).integers(1, config.vocab_size, shape)
    inputs = {"input_ids": ids, "labels": ids}
    if kind is LlamaForCausalLM:
        inputs["num_items_in_batch"] = ids[:, 1:].size
    elif kind is BertForMaskedLM:
        inputs["labels"] = np.where(np.arange(ids.size) < 0.15 * ids.size, ids.reshape(-1), -100).reshape(shape)
    else:
        inputs["labels"] = np.zeros(len(ids), np.int64)
    measured, planned = measure(kind, config, inputs, bf16, checkpointing)
    assert planned.activations is not None
    assert planned.total == pytest.approx(measured, rel=0.05), planned.render()
