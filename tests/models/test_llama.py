from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from llmcore import _core
from llmcore.autograd import no_grad
from llmcore.errors import ConfigError
from llmcore.models import LLAMA_PRESETS, AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

SMALL = LlamaConfig(
    vocab_size=61,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    max_position_embeddings=24,
)


def some_ids(B: int = 3, T: int = 17, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALL.vocab_size, (B, T))


def gradients(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    return {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}


def parameters_of(c: LlamaConfig) -> int:
    C, width, kv_width = c.hidden_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    block = 2 * C * width + 2 * C * kv_width + 3 * C * c.intermediate_size + 2 * C
    return c.vocab_size * C * (1 if c.tie_word_embeddings else 2) + c.num_hidden_layers * block + C


def test_sizes():
    assert parameters_of(LLAMA_PRESETS["smollm2-135m"]) == 134_515_008  # as published
    assert parameters_of(LlamaConfig()) == 6_738_415_616  # 7B
    assert LlamaForCausalLM(SMALL).num_parameters() == parameters_of(SMALL)


def test_dropout_and_checkpointing_change_no_bit():
    """Recomputed blocks draw the same masks, and any number of threads gives the same bits."""
    config = dataclasses.replace(SMALL, attention_dropout=0.2)
    ids = some_ids()
    results = []
    for checkpointing, threads in ((False, 1), (True, 2), (True, 3)):
        _core.set_num_threads(threads)
        model = LlamaForCausalLM(config)
        model.activation_checkpointing = checkpointing
        loss = model(ids, labels=ids).loss
        loss.backward()
        results.append((loss.item(), gradients(model)))
    _core.set_num_threads(0)
    assert results[0][0] != LlamaForCausalLM(SMALL)(ids, labels=ids).loss.item()  # there is dropout
    for loss, grads in results[1:]:
        assert loss == results[0][0]
        for name, gradient in results[0][1].items():
            np.testing.assert_array_equal(grads[name], gradient, err_msg=name)


def test_loss_forms_agree():
    model, ids = LlamaForCausalLM(SMALL), some_ids()
    with no_grad():
        logits = model(ids).logits.numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probabilities[:, :-1], ids[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(model.per_token_loss(ids)[:, :-1], expected, rtol=1e-5)
    assert model(ids, labels=ids).loss.item() == pytest.approx(expected.mean(), rel=1e-5)
    assert model.training


def test_cache_equals_full_pass_with_left_padding():
    model, ids = LlamaForCausalLM(SMALL), some_ids(B=2, T=12)
    starts = np.array([0, 4], np.int32)
    model.eval()
    with no_grad():
        cache = model.new_cache(2, 16)
        parts = [
            model(ids[:, :7], past=cache, starts=starts).logits.numpy(),
            *[model(ids[:, t : t + 1], past=cache).logits.numpy() for t in range(7, 12)],
        ]
        stepwise = np.concatenate(parts, axis=1)
        np.testing.assert_allclose(stepwise[0], model(ids[:1]).logits.numpy()[0], atol=2e-6)
        np.testing.assert_allclose(stepwise[1, 4:], model(ids[1:, 4:]).logits.numpy()[0], atol=2e-6)


@pytest.mark.parametrize("dtype", [_core.DType.float32, _core.DType.bfloat16], ids=lambda d: d.name)
def test_save_and_load(tmp_path, dtype):
    model, ids = LlamaForCausalLM(dataclasses.replace(SMALL, tie_word_embeddings=True), dtype=dtype), some_ids()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config == model.config == AutoConfig.from_pretrained(tmp_path) and again.dtype == dtype
    with no_grad():
        np.testing.assert_array_equal(again(ids).logits.numpy(), model(ids).logits.numpy())


def test_files_from_before_transformers_5(tmp_path):
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    good = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8, "pretraining_tp": 1}
    for written, expected in [
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **llama3}},
            {"rope_type": "llama3", "rope_theta": 5e5, **llama3},
        ),
    ]:
        (tmp_path / "config.json").write_text(json.dumps({**good, **written}))
        assert AutoConfig.from_pretrained(tmp_path).rope_parameters == expected


def test_configurations_that_would_change_the_maths_are_refused(tmp_path):
    model = LlamaForCausalLM(SMALL)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for name, value, message in [
        ("sliding_window", 4096, "unknown field 'sliding_window'"),
        ("hidden_act", "gelu", 'hidden_act must be "silu"'),
        ("rope_scaling", {"rope_type": "longrope"}, "rope_type must be one of"),
        ("rope_interleaved", True, "rope_interleaved=True is not supported"),
        ("num_key_value_heads", 2, "must be a multiple of num_key_value_heads=2"),
        ("hidden_size", 25, "must be a multiple of num_attention_heads=3"),
        ("head_dim", 7, "head_dim must be even"),
        ("num_hidden_layer", 3, "did you mean 'num_hidden_layers'"),
        ("rms_norm_eps", float("inf"), "rms_norm_eps must be a number above 0, such as 1e-5, got inf"),
    ]:
        path.write_text(json.dumps({**good, name: value}))
        with pytest.raises(ConfigError, match=message):
            AutoModelForCausalLM.from_pretrained(tmp_path)


def test_sequences_beyond_the_trained_length():
    with pytest.raises(ConfigError, match="25 tokens is longer than the model's max_position_embeddings=24"):
        LlamaForCausalLM(SMALL)(np.zeros((1, 25), np.int64))
    dynamic = dataclasses.replace(SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    with no_grad():
        assert LlamaForCausalLM(dynamic)(np.zeros((1, 25), np.int64)).logits.shape == (1, 25, 61)
