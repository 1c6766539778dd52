"""Llama against transformers and PyTorch: the same weights give the same logits, gradients, training, text, files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import llmcore
from llmcore.models import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from tests.models.oracle import (
    LLAMA,
    compare_gradients,
    losses_of,
    random_ids,
    save_llama,
    their_logits,
    training_losses,
)

LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": dict(tie_word_embeddings=True),
    "odd sizes": dict(vocab_size=131, hidden_size=42, intermediate_size=77, num_attention_heads=3, head_dim=14),
    "heads wider than C": dict(head_dim=32, num_key_value_heads=4),
    "one key head, one layer": dict(num_key_value_heads=1, num_hidden_layers=1),
    "biases": dict(attention_bias=True, mlp_bias=True),
    "large epsilon and theta": dict(rms_norm_eps=1e-2, rope_parameters=dict(rope_type="default", rope_theta=5e5)),
    "linear": dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=3.0)),
    "llama3": dict(rope_parameters=dict(rope_theta=1e4, original_max_position_embeddings=24, **LLAMA3), head_dim=32),
    "yarn": dict(
        rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=40)
    ),
    "dynamic": dict(max_position_embeddings=20, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)),
}
VARIANTS["odd sizes"]["num_key_value_heads"] = 3


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(tmp_path, name):
    theirs = save_llama(tmp_path, **VARIANTS[name])
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(ours, LlamaForCausalLM)
    ours.eval()
    ids = random_ids(3, 37, vocab_size=theirs.config.vocab_size)
    expected = their_logits(theirs, ids)
    assert np.abs(expected).max() > 1  # there is something to compare
    with llmcore.no_grad():
        np.testing.assert_allclose(ours(ids).logits.numpy(), expected, rtol=0, atol=1e-4)


def test_logits_with_padding_and_positions(tmp_path):
    import torch

    theirs = save_llama(tmp_path)
    ours = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(3, 20)
    mask = (np.arange(20) < np.array([[20], [13], [1]])).astype(np.int64)
    expected = their_logits(theirs, ids, attention_mask=torch.tensor(mask))
    with llmcore.no_grad():
        actual = ours(ids, attention_mask=mask).logits.numpy()
        np.testing.assert_allclose(actual[mask == 1], expected[mask == 1], rtol=0, atol=1e-4)
        positions = random_ids(3, 20, vocab_size=LLAMA["max_position_embeddings"], seed=8)
        expected = their_logits(theirs, ids, position_ids=torch.tensor(positions))
        np.testing.assert_allclose(ours(ids, position_ids=positions).logits.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", ["plain", "tied", "odd sizes", "biases", "yarn"])
def test_loss_and_gradients(tmp_path, name, recompute):
    theirs = save_llama(tmp_path, **VARIANTS[name])
    ours = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(4, 30, vocab_size=theirs.config.vocab_size)
    labels = ids.copy()
    labels[0, 10:] = -100
    labels[2, ::3] = -100
    loss = losses_of(theirs, ids, labels)
    loss.backward()
    ours.train()
    ours.activation_checkpointing = recompute
    result = ours(ids, labels=labels, num_items_in_batch=int((labels[:, 1:] != -100).sum()) if recompute else None)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss.item(), abs=1e-4)
    compare_gradients(theirs, ours, 1e-3)


def test_twenty_adamw_steps(tmp_path):
    theirs = save_llama(tmp_path)
    ours = LlamaForCausalLM.from_pretrained(tmp_path)
    matrices = 7 * LLAMA["num_hidden_layers"] + 1  # and the head, which is not the embedding
    expected, actual = training_losses(theirs, ours, decayed_count=matrices, rate=2e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    for name, parameter in theirs.named_parameters():
        assert np.abs(ours.state_dict()[name].numpy() - parameter.detach().numpy()).max() < 5e-5, name


def test_twenty_adamw_steps_in_bfloat16(tmp_path):
    """bfloat16 keeps 8 bits: the losses stay within one per cent of PyTorch's in float32."""
    theirs = save_llama(tmp_path, tie_word_embeddings=True)
    ours = LlamaForCausalLM.from_pretrained(tmp_path, dtype=llmcore.bfloat16)
    expected, actual = training_losses(theirs, ours, decayed_count=7 * LLAMA["num_hidden_layers"], rate=2e-3)
    np.testing.assert_allclose(actual, expected, rtol=1e-2)
    assert actual != expected


@pytest.mark.parametrize("name", ["plain", "tied", "biases", "llama3", "dynamic"])
def test_what_we_save_loads_in_transformers(tmp_path, name):
    save_llama(tmp_path / "first", **VARIANTS[name])
    import transformers

    ours = LlamaForCausalLM.from_pretrained(tmp_path / "first")
    ours.save_pretrained(tmp_path / "second")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second", output_loading_info=True)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = random_ids(2, 30, vocab_size=ours.config.vocab_size)
    with llmcore.no_grad():
        logits = ours(ids).logits.numpy()
    np.testing.assert_allclose(their_logits(theirs.eval(), ids), logits, rtol=0, atol=1e-4)
    again = LlamaForCausalLM.from_pretrained(tmp_path / "second")
    with llmcore.no_grad():
        np.testing.assert_array_equal(again(ids).logits.numpy(), logits)


def test_a_model_born_here_loads_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = LlamaForCausalLM(LlamaConfig(**LLAMA), seed=3)
    ours.eval()
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    with llmcore.no_grad():
        logits = ours(random_ids(2, 30)).logits.numpy()
    np.testing.assert_allclose(their_logits(theirs, random_ids(2, 30)), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "tied", "llama3"])
def test_greedy_text_is_the_same(tmp_path, name):
    """A batch of prompts of different lengths, 100 tokens each."""
    import torch

    theirs = save_llama(tmp_path, std=0.3, **VARIANTS[name])
    ours = LlamaForCausalLM.from_pretrained(tmp_path)
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (1, 7, 20)]
    outputs = ours.generate(prompts, max_new_tokens=100)
    for prompt, output in zip(prompts, outputs, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=100, do_sample=False)[0].numpy()
        assert len(set(expected[-100:])) > 5  # not one token for ever
        np.testing.assert_array_equal(output[-100 - len(prompt) :], expected)
