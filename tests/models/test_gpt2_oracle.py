"""GPT-2 against transformers and PyTorch: the same weights give the same logits, gradients, training run, files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import llmcore
from llmcore.models import AutoModelForCausalLM, GPT2LMHeadModel
from tests.models.oracle import (
    SMALL,
    compare_gradients,
    losses_of,
    random_ids,
    save_gpt2,
    their_logits,
    training_losses,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd sizes": dict(vocab_size=131, n_positions=37, n_embd=42, n_layer=2, n_head=3, n_inner=77),
    "one head, one layer": dict(n_layer=1, n_head=1),
    "untied": dict(tie_word_embeddings=False),
    "erf gelu": dict(activation_function="gelu"),
    "relu": dict(activation_function="relu"),
    "silu": dict(activation_function="silu"),
    "scaled by layer": dict(scale_attn_by_inverse_layer_idx=True),
    "unscaled": dict(scale_attn_weights=False, n_embd=16),
    "large epsilon": dict(layer_norm_epsilon=1e-2),
    "dropout is off": dict(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits(tmp_path, name):
    theirs = save_gpt2(tmp_path, **VARIANTS[name])
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours.eval()
    ids = random_ids(3, 37, vocab_size=theirs.config.vocab_size)
    expected = their_logits(theirs, ids)
    assert np.abs(expected).max() > 1  # there is something to compare
    with llmcore.no_grad():
        np.testing.assert_allclose(ours(ids).logits.numpy(), expected, rtol=0, atol=1e-4)


def test_logits_with_padding_and_positions(tmp_path):
    import torch

    theirs = save_gpt2(tmp_path)
    ours = GPT2LMHeadModel.from_pretrained(tmp_path)
    ids = random_ids(3, 20)
    mask = (np.arange(20) < np.array([[20], [13], [1]])).astype(np.int64)
    expected = their_logits(theirs, ids, attention_mask=torch.tensor(mask))
    with llmcore.no_grad():
        actual = ours(ids, attention_mask=mask).logits.numpy()
        np.testing.assert_allclose(actual[mask == 1], expected[mask == 1], rtol=0, atol=1e-4)
        positions = random_ids(3, 20, vocab_size=SMALL["n_positions"], seed=8)
        expected = their_logits(theirs, ids, position_ids=torch.tensor(positions))
        np.testing.assert_allclose(ours(ids, position_ids=positions).logits.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True], ids=["separate backward", "fused backward"])
@pytest.mark.parametrize("name", ["plain", "odd sizes", "untied", "erf gelu", "scaled by layer"])
def test_loss_and_gradients(tmp_path, name, fused):
    theirs = save_gpt2(tmp_path, **VARIANTS[name])
    ours = GPT2LMHeadModel.from_pretrained(tmp_path)
    ids = random_ids(4, 30, vocab_size=theirs.config.vocab_size)
    labels = ids.copy()
    labels[0, 10:] = -100
    labels[2, ::3] = -100
    loss = losses_of(theirs, ids, labels)
    loss.backward()
    trained = int((labels[:, 1:] != -100).sum())
    ours.train()
    result = ours(ids, labels=labels, num_items_in_batch=trained if fused else None)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss.item(), abs=1e-4)
    compare_gradients(theirs, ours, 1e-3)


def test_gradients_add_up_over_two_batches(tmp_path):
    theirs = save_gpt2(tmp_path)
    ours = GPT2LMHeadModel.from_pretrained(tmp_path)
    ours.train()
    for seed in (1, 2):
        ids = random_ids(2, 25, seed=seed)
        (losses_of(theirs, ids, ids) / 2).backward()
        ours(ids, labels=ids, num_items_in_batch=2 * 2 * 24).loss.backward()
    compare_gradients(theirs, ours, 1e-3)


def test_twenty_adamw_steps(tmp_path):
    theirs = save_gpt2(tmp_path)
    ours = GPT2LMHeadModel.from_pretrained(tmp_path)
    expected, actual = training_losses(theirs, ours, decayed_count=4 * SMALL["n_layer"])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    C = SMALL["n_embd"]
    for name, parameter in theirs.named_parameters():
        difference = np.abs(ours.state_dict()[name].numpy() - parameter.detach().numpy())
        if name.endswith("c_attn.bias"):
            # A bias on all keys changes no attention weight: its gradient is rounding, which Adam scales up to 1.
            difference[C : 2 * C] = 0
        assert difference.max() < 5e-5, name


def test_twenty_adamw_steps_in_bfloat16(tmp_path):
    """bfloat16 keeps 8 bits: the losses stay within one per cent of PyTorch's in float32."""
    theirs = save_gpt2(tmp_path)
    ours = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=llmcore.bfloat16)
    expected, actual = training_losses(theirs, ours, decayed_count=4 * SMALL["n_layer"])
    np.testing.assert_allclose(actual, expected, rtol=1e-2)
    assert actual != expected


def test_bfloat16_logits(tmp_path):
    import torch

    theirs = save_gpt2(tmp_path)
    exact = their_logits(theirs, random_ids(2, 30))
    half = their_logits(theirs.to(torch.bfloat16), random_ids(2, 30))
    ours = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=llmcore.bfloat16)
    with llmcore.no_grad():
        actual = ours(random_ids(2, 30)).logits.numpy()
    # No further from the truth than PyTorch in bfloat16 is.
    assert np.abs(actual - exact).mean() <= 1.2 * np.abs(half - exact).mean()


@pytest.mark.parametrize("name", ["plain", "odd sizes", "untied", "erf gelu", "scaled by layer"])
def test_what_we_save_loads_in_transformers(tmp_path, name):
    save_gpt2(tmp_path / "first", **VARIANTS[name])
    import transformers

    ours = GPT2LMHeadModel.from_pretrained(tmp_path / "first")
    ours.save_pretrained(tmp_path / "second")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second", output_loading_info=True)
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = random_ids(2, 30, vocab_size=ours.config.vocab_size)
    with llmcore.no_grad():
        logits = ours(ids).logits.numpy()
    np.testing.assert_allclose(their_logits(theirs.eval(), ids), logits, rtol=0, atol=1e-4)
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "second")
    with llmcore.no_grad():
        np.testing.assert_array_equal(again(ids).logits.numpy(), logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_born_here_loads_in_transformers(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours = GPT2LMHeadModel(llmcore.GPT2Config(**SMALL), seed=3, dtype=getattr(llmcore, dtype))
    ours.eval()
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    assert theirs.dtype == getattr(torch, dtype)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(parameter.detach().float().numpy(), ours.state_dict()[name].numpy())
    if dtype == "float32":
        with llmcore.no_grad():
            logits = ours(random_ids(2, 30)).logits.numpy()
        np.testing.assert_allclose(their_logits(theirs, random_ids(2, 30)), logits, rtol=0, atol=1e-4)
