"""GPT-2 and Llama against transformers and PyTorch: the same weights give the same logits, gradients, training, text,
files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import llmcore
from llmcore.models import AutoModelForCausalLM, GPT2LMHeadModel, LlamaForCausalLM
from tests.models.oracle import (
    LLAMA,
    SMALL,
    compare_gradients,
    losses_of,
    random_ids,
    save_gpt2,
    save_llama,
    their_logits,
    training_losses,
)


@dataclasses.dataclass(frozen=True)
class Family:
    """What the tests know of an architecture. `save` makes transformers' model, `sizes` is its small configuration."""

    model: Any
    save: Callable[..., Any]
    sizes: dict[str, Any]
    matrices: int  # those that weight decay is for
    rate: float  # at which twenty steps learn
    variants: dict[str, dict[str, Any]]
    trained: tuple[str, ...]  # variants whose gradients are compared
    saved: tuple[str, ...]  # variants whose files are

    def load(self, folder: Any, **options: Any) -> Any:
        return self.model.from_pretrained(folder, **options)


LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)

FAMILIES = {
    "gpt2": Family(
        model=GPT2LMHeadModel,
        save=save_gpt2,
        sizes=SMALL,
        matrices=4 * SMALL["n_layer"],
        rate=1e-3,
        variants={
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
        },
        trained=("plain", "odd sizes", "untied", "erf gelu", "scaled by layer"),
        saved=("plain", "odd sizes", "untied", "erf gelu", "scaled by layer"),
    ),
    "llama": Family(
        model=LlamaForCausalLM,
        save=save_llama,
        sizes=LLAMA,
        matrices=7 * LLAMA["num_hidden_layers"] + 1,  # and the head, which is not the embedding
        rate=2e-3,
        variants={
            "plain": {},
            "tied": dict(tie_word_embeddings=True),
            "odd sizes": dict(
                vocab_size=131,
                hidden_size=42,
                intermediate_size=77,
                num_attention_heads=3,
                num_key_value_heads=3,
                head_dim=14,
            ),
            "heads wider than C": dict(head_dim=32, num_key_value_heads=4),
            "one key head, one layer": dict(num_key_value_heads=1, num_hidden_layers=1),
            "biases": dict(attention_bias=True, mlp_bias=True),
            "large epsilon and theta": dict(
                rms_norm_eps=1e-2, rope_parameters=dict(rope_type="default", rope_theta=5e5)
            ),
            "linear": dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=3.0)),
            "llama3": dict(
                rope_parameters=dict(rope_theta=1e4, original_max_position_embeddings=24, **LLAMA3), head_dim=32
            ),
            "yarn": dict(
                rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=40)
            ),
            "dynamic": dict(
                max_position_embeddings=20, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)
            ),
        },
        trained=("plain", "tied", "odd sizes", "biases", "yarn"),
        saved=("plain", "tied", "biases", "llama3", "dynamic"),
    ),
}


def cases(names: Callable[[Family], Any]) -> Any:
    """A parametrisation over all families and those of their variants."""
    return pytest.mark.parametrize(
        ("family", "name"),
        [pytest.param(family, name, id=f"{key}, {name}") for key, family in FAMILIES.items() for name in names(family)],
    )


every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@cases(lambda family: family.variants)
def test_logits(tmp_path, family, name):
    theirs = family.save(tmp_path, **family.variants[name])
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(ours, family.model)
    ours.eval()
    ids = random_ids(3, 37, vocab_size=theirs.config.vocab_size)
    expected = their_logits(theirs, ids)
    assert np.abs(expected).max() > 1  # there is something to compare
    with llmcore.no_grad():
        np.testing.assert_allclose(ours(ids).logits.numpy(), expected, rtol=0, atol=1e-4)


@every_family
def test_logits_with_padding_and_positions(tmp_path, family):
    import torch

    theirs = family.save(tmp_path)
    ours = family.load(tmp_path)
    ids = random_ids(3, 20)
    mask = (np.arange(20) < np.array([[20], [13], [1]])).astype(np.int64)
    expected = their_logits(theirs, ids, attention_mask=torch.tensor(mask))
    with llmcore.no_grad():
        actual = ours(ids, attention_mask=mask).logits.numpy()
        np.testing.assert_allclose(actual[mask == 1], expected[mask == 1], rtol=0, atol=1e-4)
        positions = random_ids(3, 20, vocab_size=family.sizes[family.model.limit_field], seed=8)
        expected = their_logits(theirs, ids, position_ids=torch.tensor(positions))
        np.testing.assert_allclose(ours(ids, position_ids=positions).logits.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", ["kept", "fused", "fused and recomputed"])
@cases(lambda family: family.trained)
def test_loss_and_gradients(tmp_path, family, name, way):
    """The head's gradients in a pass of their own or together with the loss; activations kept or computed again."""
    theirs = family.save(tmp_path, **family.variants[name])
    ours = family.load(tmp_path)
    ids = random_ids(4, 30, vocab_size=theirs.config.vocab_size)
    labels = ids.copy()
    labels[0, 10:] = -100
    labels[2, ::3] = -100
    loss = losses_of(theirs, ids, labels)
    loss.backward()
    trained = int((labels[:, 1:] != -100).sum())
    ours.train()
    ours.activation_checkpointing = "recomputed" in way
    result = ours(ids, labels=labels, num_items_in_batch=trained if "fused" in way else None)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(loss.item(), abs=1e-4)
    compare_gradients(theirs, ours, 1e-3)


@every_family
def test_gradients_add_up_over_two_batches(tmp_path, family):
    theirs = family.save(tmp_path)
    ours = family.load(tmp_path)
    ours.train()
    for seed in (1, 2):
        ids = random_ids(2, 25, seed=seed)
        (losses_of(theirs, ids, ids) / 2).backward()
        ours(ids, labels=ids, num_items_in_batch=2 * 2 * 24).loss.backward()
    compare_gradients(theirs, ours, 1e-3)


@every_family
def test_twenty_adamw_steps(tmp_path, family):
    theirs = family.save(tmp_path)
    ours = family.load(tmp_path)
    expected, actual = training_losses(theirs, ours, decayed_count=family.matrices, rate=family.rate)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    for name, parameter in theirs.named_parameters():
        difference = np.abs(ours.state_dict()[name].numpy() - parameter.detach().numpy())
        if name.endswith("c_attn.bias"):
            # A bias on all keys changes no attention weight: its gradient is rounding, which Adam scales up to 1.
            C = len(difference) // 3
            difference[C : 2 * C] = 0
        assert difference.max() < 5e-5, name


@every_family
def test_twenty_adamw_steps_in_bfloat16(tmp_path, family):
    """bfloat16 keeps 8 bits: the losses stay within one per cent of PyTorch's in float32."""
    theirs = family.save(tmp_path, tie_word_embeddings=True)
    ours = family.load(tmp_path, dtype=llmcore.bfloat16)
    untied = not family.model.config_class().tie_word_embeddings
    expected, actual = training_losses(theirs, ours, decayed_count=family.matrices - untied, rate=family.rate)
    np.testing.assert_allclose(actual, expected, rtol=1e-2)
    assert actual != expected


@every_family
def test_bfloat16_logits(tmp_path, family):
    import torch

    theirs = family.save(tmp_path)
    exact = their_logits(theirs, random_ids(2, 30))
    half = their_logits(theirs.to(torch.bfloat16), random_ids(2, 30))
    ours = family.load(tmp_path, dtype=llmcore.bfloat16)
    with llmcore.no_grad():
        actual = ours(random_ids(2, 30)).logits.numpy()
    # No further from the truth than PyTorch in bfloat16 is.
    assert np.abs(actual - exact).mean() <= 1.2 * np.abs(half - exact).mean()


@cases(lambda family: family.saved)
def test_what_we_save_loads_in_transformers(tmp_path, family, name):
    family.save(tmp_path / "first", **family.variants[name])
    import transformers

    ours = family.load(tmp_path / "first")
    ours.save_pretrained(tmp_path / "second")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second", output_loading_info=True)
    assert type(theirs).__name__ == family.model.__name__
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = random_ids(2, 30, vocab_size=ours.config.vocab_size)
    with llmcore.no_grad():
        logits = ours(ids).logits.numpy()
    np.testing.assert_allclose(their_logits(theirs.eval(), ids), logits, rtol=0, atol=1e-4)
    again = family.load(tmp_path / "second")
    with llmcore.no_grad():
        np.testing.assert_array_equal(again(ids).logits.numpy(), logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_family
def test_a_model_born_here_loads_in_transformers(tmp_path, family, dtype):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours = family.model(family.model.config_class(**family.sizes), seed=3, dtype=getattr(llmcore, dtype))
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


@pytest.mark.parametrize("name", ["plain", "tied", "llama3"])
def test_greedy_text_of_llama_is_the_same(tmp_path, name):
    """A batch of prompts of different lengths, 100 tokens each. GPT-2's is in tests/generation."""
    import torch

    family = FAMILIES["llama"]
    theirs = family.save(tmp_path, std=0.3, **family.variants[name])
    ours = family.load(tmp_path)
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (1, 7, 20)]
    outputs = ours.generate(prompts, max_new_tokens=100)
    for prompt, output in zip(prompts, outputs, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=100, do_sample=False)[0].numpy()
        assert len(set(expected[-100:])) > 5  # not one token for ever
        np.testing.assert_array_equal(output[-100 - len(prompt) :], expected)
