from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from llmcore import _core
from llmcore.autograd import no_grad
from llmcore.errors import CheckpointError, ConfigError, DataError
from llmcore.generation import GenerationConfig
from llmcore.models import PRESETS, AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

SMALL = GPT2Config(
    vocab_size=61, n_positions=24, n_embd=24, n_layer=2, n_head=3, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
)


def some_ids(B: int = 3, T: int = 17, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SMALL.vocab_size, (B, T))


def gradients(model: GPT2LMHeadModel) -> dict[str, np.ndarray]:
    return {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}


def test_published_sizes():
    counts = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}
    for name, expected in counts.items():
        c = PRESETS[name]
        C = c.n_embd
        block = 4 * C + (3 * C * C + 3 * C) + (C * C + C) + (4 * C * C + 4 * C) + (4 * C * C + C)
        assert c.vocab_size * C + c.n_positions * C + c.n_layer * block + 2 * C == expected
    small = GPT2LMHeadModel(SMALL)
    C = SMALL.n_embd
    assert small.num_parameters() == 61 * C + 24 * C + 2 * (12 * C * C + 13 * C) + 2 * C


def test_initialisation_is_gpt2s():
    model = GPT2LMHeadModel(dataclasses.replace(SMALL, n_embd=96, n_layer=8))
    block = model.transformer.h[3]
    assert abs(block.attn.c_attn.weight.numpy().std() - 0.02) < 5e-4
    assert abs(block.mlp.c_proj.weight.numpy().std() - 0.02 / np.sqrt(16)) < 2e-4
    assert block.mlp.c_fc.bias.numpy().max() == 0 and block.ln_1.weight.numpy().min() == 1


def test_loss_forms_agree():
    model, ids = GPT2LMHeadModel(SMALL), some_ids()
    with no_grad():
        logits = model(ids).logits.numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probabilities[:, :-1], ids[:, 1:, None], -1)[..., 0]
    per_token = model.per_token_loss(ids)
    np.testing.assert_allclose(per_token[:, :-1], expected, rtol=1e-5)
    assert (per_token[:, -1] == 0).all()
    assert model(ids, labels=ids).loss.item() == pytest.approx(expected.mean(), rel=1e-5)
    both = model(ids, labels=ids, num_items_in_batch=100, return_logits=True)
    assert both.loss.item() == pytest.approx(expected.sum() / 100, rel=1e-5)
    np.testing.assert_allclose(both.logits.numpy(), logits, atol=1e-6)


def test_fused_and_recomputed_head_gradients_agree():
    ids = some_ids()
    labels = ids.copy()
    labels[0, 5:] = -100
    trained = int((labels[:, 1:] != -100).sum())
    fused, plain = GPT2LMHeadModel(SMALL), GPT2LMHeadModel(SMALL)
    fused(ids, labels=labels, num_items_in_batch=trained).loss.backward()
    plain(ids, labels=labels).loss.backward()
    for name, gradient in gradients(plain).items():
        np.testing.assert_allclose(gradients(fused)[name], gradient, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_activation_checkpointing_changes_no_bit(dropout):
    config = dataclasses.replace(SMALL, resid_pdrop=dropout, attn_pdrop=dropout, embd_pdrop=dropout)
    ids = some_ids()
    results = []
    for checkpointing in (False, True):
        model = GPT2LMHeadModel(config)
        model.activation_checkpointing = checkpointing
        loss = model(ids, labels=ids).loss
        loss.backward()
        results.append((loss.item(), gradients(model)))
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        np.testing.assert_array_equal(results[1][1][name], gradient, err_msg=name)


def test_same_bits_for_any_number_of_threads():
    config = dataclasses.replace(SMALL, resid_pdrop=0.1, attn_pdrop=0.1, embd_pdrop=0.1)
    ids = some_ids(B=4, T=24)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        model = GPT2LMHeadModel(config)
        loss = model(ids, labels=ids, num_items_in_batch=92).loss
        loss.backward()
        results.append((loss.item(), gradients(model)))
    _core.set_num_threads(0)
    for loss, grads in results[1:]:
        assert loss == results[0][0]
        for name, gradient in results[0][1].items():
            np.testing.assert_array_equal(grads[name], gradient, err_msg=name)


def test_padding_on_the_right_changes_nothing():
    model, ids = GPT2LMHeadModel(SMALL), some_ids(B=2)
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    padded = ids.copy()
    padded[1, 9:] = 0
    with no_grad():
        np.testing.assert_array_equal(
            model(padded, attention_mask=mask).logits.numpy()[1, :9], model(ids[1:, :9]).logits.numpy()[0]
        )
    with pytest.raises(DataError, match="padding must be on the right"):
        model(ids, attention_mask=mask[:, ::-1])


def test_cache_equals_full_pass_with_left_padding():
    model, ids = GPT2LMHeadModel(SMALL), some_ids(B=2, T=12)
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
        with pytest.raises(ConfigError, match="cache holds 16 positions, 12 are used and 5 more"):
            model(ids[:, :5], past=cache)


@pytest.mark.parametrize("dtype", [_core.DType.float32, _core.DType.bfloat16], ids=lambda d: d.name)
def test_save_and_load(tmp_path, dtype):
    model, ids = GPT2LMHeadModel(SMALL, dtype=dtype), some_ids()
    model.generation_config = GenerationConfig(temperature=0.7)
    model.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.config == model.config and again.dtype == dtype and again.generation_config.temperature == 0.7
    assert AutoConfig.from_pretrained(tmp_path / "model") == SMALL
    with no_grad():
        np.testing.assert_array_equal(again(ids).logits.numpy(), model(ids).logits.numpy())


def test_untied_head(tmp_path):
    model = GPT2LMHeadModel(dataclasses.replace(SMALL, tie_word_embeddings=False))
    assert "lm_head.weight" in model.state_dict()
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.lm_head.weight.numpy(), model.lm_head.weight.numpy())


def test_configurations_that_would_change_the_maths_are_refused(tmp_path):
    model = GPT2LMHeadModel(SMALL)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for name, value, message in [
        ("rope_theta", 1e4, "unknown field 'rope_theta'"),
        ("add_cross_attention", True, "add_cross_attention=True is not supported"),
        ("activation_function", "swish2", "activation_function must be one of"),
        ("n_heads", 3, "did you mean 'n_head'"),
        ("model_type", "mamba", "model_type 'mamba' is not known"),
        ("layer_norm_epsilon", -1e-5, "layer_norm_epsilon must be a number above 0, such as 1e-5, got -1e-05"),
        ("layer_norm_epsilon", 0.0, "layer_norm_epsilon must be a number above 0"),
    ]:
        path.write_text(json.dumps({**good, name: value}))
        with pytest.raises(ConfigError, match=message):
            AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="multiple of n_head"):
        GPT2Config(n_embd=10, n_head=3)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    GPT2LMHeadModel(SMALL).save_pretrained(tmp_path)
    dataclasses.replace(SMALL, n_positions=25).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"wpe.weight must have shape \(25, 24\), got \(24, 24\)"):
        GPT2LMHeadModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither model.safetensors nor"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


def test_bad_input_is_refused():
    model = GPT2LMHeadModel(SMALL)
    with pytest.raises(ConfigError, match="25 tokens is longer than the model's n_positions=24"):
        model(np.zeros((1, 25), np.int64))
    with pytest.raises(DataError, match=r"shape \(batch, time\), got \(4,\)"):
        model(np.zeros(4, np.int64))
    with pytest.raises(DataError, match="rows differ in length"):
        model([[1, 2], [3]])
    with pytest.raises(DataError, match="must be integers"):
        model(np.zeros((1, 4)))
    with pytest.raises(IndexError, match="61"):
        model(np.full((1, 4), 61))


def test_device_that_is_not_there_is_one_sentence():
    sentence = '^device "cuda" is not available: (this llmcore was built without the CUDA|no CUDA device was found)'
    with pytest.raises(ValueError, match=sentence):
        GPT2LMHeadModel(SMALL, device="cuda")
