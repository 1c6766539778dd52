"""Generation with the real GPT-2, against transformers' `generate` on the same weights."""

from __future__ import annotations

import numpy as np
import pytest

import llmcore
from llmcore.data import byte_tokenizer
from llmcore.models import GPT2LMHeadModel
from tests.models.oracle import random_ids, save_gpt2


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    theirs = save_gpt2(folder, std=0.3)
    return theirs, GPT2LMHeadModel.from_pretrained(folder)


def their_text(model, ids, **settings) -> np.ndarray:
    import torch

    ids = torch.tensor(np.atleast_2d(ids))
    # A mask of its own: without one transformers takes every 0 in the prompt for padding.
    return model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False, **settings).numpy()


@pytest.mark.parametrize("length", [1, 2, 7, 33])
def test_greedy_100_tokens_equal_transformers(pair, length):
    theirs, ours = pair
    ids = random_ids(1, length, seed=length)
    expected = their_text(theirs, ids, max_new_tokens=100)
    actual = ours.generate(ids, max_new_tokens=100)
    np.testing.assert_array_equal(actual, expected)
    assert len(set(actual[0, length:].tolist())) > 25  # not one token over and over


@pytest.mark.parametrize(
    "settings",
    [dict(repetition_penalty=1.5), dict(no_repeat_ngram_size=2), dict(repetition_penalty=1.2, no_repeat_ngram_size=3)],
    ids=str,
)
def test_penalties_equal_transformers(pair, settings):
    theirs, ours = pair
    ids = random_ids(2, 9, seed=5)
    expected = their_text(theirs, ids, max_new_tokens=60, **settings)
    np.testing.assert_array_equal(ours.generate(ids, max_new_tokens=60, **settings), expected)


def test_padded_batch_equals_transformers_and_single_rows(pair):
    import torch

    theirs, ours = pair
    prompts = [random_ids(1, length, seed=length)[0] for length in (3, 20, 1, 11)]
    width = 20
    ids = np.stack([np.pad(prompt, (width - len(prompt), 0)) for prompt in prompts])
    mask = np.stack([np.pad(np.ones(len(prompt), int), (width - len(prompt), 0)) for prompt in prompts])
    settings = dict(max_new_tokens=50)
    expected = theirs.generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False, pad_token_id=0, **settings
    ).numpy()
    actual = ours.generate(ids, attention_mask=mask, pad_token_id=0, **settings)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(ours.generate([list(prompt) for prompt in prompts], **settings), actual)
    for row, prompt in zip(actual, prompts, strict=True):
        np.testing.assert_array_equal(ours.generate(prompt, **settings)[0], row[width - len(prompt) :])


def test_cache_equals_full_recompute(pair):
    _, ours = pair
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (5, 17, 2)]
    cached = ours.generate(prompts, max_new_tokens=40)
    np.testing.assert_array_equal(ours.generate(prompts, max_new_tokens=40, use_cache=False), cached)
    # Without any cache of ours: the whole sequence through the training forward pass.
    ids = list(prompts[1])
    with llmcore.no_grad():
        for _ in range(40):
            ids.append(int(ours([ids]).logits.numpy()[0, -1].argmax()))
    np.testing.assert_array_equal(cached[1], ids)


def test_cached_logits_equal_those_of_one_pass(pair):
    _, ours = pair
    ids = random_ids(2, 30)
    with llmcore.no_grad():
        whole = ours(ids).logits.numpy()
        cache = ours.new_cache(2, 30)
        parts = [
            ours(ids[:, begin:end], past=cache).logits.numpy() for begin, end in ((0, 11), (11, 12), (12, 13), (13, 30))
        ]
        last = ours(ids, logits_to_keep=2).logits.numpy()
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-4)
    np.testing.assert_allclose(last, whole[:, -2:], atol=1e-5)


def test_rows_of_a_sampled_batch_do_not_depend_on_each_other(pair):
    _, ours = pair
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (5, 17, 2)]
    settings = dict(max_new_tokens=40, do_sample=True, temperature=1.2, top_k=0, top_p=0.95, seed=11)
    together = ours.generate(prompts, **settings)
    for row, prompt in zip(together, prompts, strict=True):
        np.testing.assert_array_equal(ours.generate(prompt, **settings)[0], row[17 - len(prompt) :])
    assert (ours.generate(prompts, **{**settings, "seed": 12}) != together).any()


def test_sliding_context(pair):
    _, ours = pair
    limit = ours.config.n_positions
    out = ours.generate(random_ids(1, 10), max_new_tokens=limit + 40, slide_context=True)[0].tolist()
    assert len(out) == limit + 50
    ids = out[:10]
    first = 0
    with llmcore.no_grad():
        while len(ids) < len(out):
            if len(ids) - first > limit:
                first = len(ids) - limit // 2
            if len(ids) > limit - 3:  # the part before is ordinary decoding
                assert int(ours([ids[first:]]).logits.numpy()[0, -1].argmax()) == out[len(ids)]
            ids.append(out[len(ids)])


def test_text_with_the_tokenizer_beside_the_model(pair, tmp_path):
    _, ours = pair
    ours.save_pretrained(tmp_path)
    assert GPT2LMHeadModel.from_pretrained(tmp_path).tokenizer is None
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    prompt = "Text"
    expected = ours.generate(tokenizer.encode(prompt), max_new_tokens=30)[0, 4:]
    text = model.generate(prompt, max_new_tokens=30)
    assert text == tokenizer.decode(expected)
    assert "".join(model.generate(prompt, max_new_tokens=30, stream=True)) == text
    with pytest.raises(IndexError, match="226"):  # a byte beyond this model's 211 entries
        model.generate("\u2026", max_new_tokens=2)


def test_bfloat16_generates(pair, tmp_path):
    _, ours = pair
    ours.save_pretrained(tmp_path)
    half = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=llmcore.bfloat16)
    ids = random_ids(2, 9)
    out = half.generate(ids, max_new_tokens=20)
    np.testing.assert_array_equal(half.generate(ids, max_new_tokens=20, use_cache=False), out)
    assert out.shape == (2, 29)
