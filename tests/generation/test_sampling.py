"""Sampling against transformers' own logits processors."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.errors import ConfigError, LlmcoreError
from llmcore.generation import GenerationConfig
from llmcore.generation.sampling import next_token, process, row_generators, softmax

VOCABULARY = 101


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def oracle(
    transformers, scores: np.ndarray, ids: list[int], prompt_length: int, config: GenerationConfig
) -> np.ndarray:
    """What transformers' `_get_logits_processor` builds for the same settings, applied to one row."""
    import torch
    from transformers.generation import logits_process as hf

    processors = transformers.LogitsProcessorList()
    if config.repetition_penalty != 1.0:
        processors.append(hf.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        processors.append(hf.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.min_new_tokens and config.eos_token_id is not None:
        eos = torch.tensor(config.eos_token_ids)
        processors.append(hf.MinNewTokensLengthLogitsProcessor(prompt_length, config.min_new_tokens, eos))
    if config.do_sample:
        if config.temperature != 1.0:
            processors.append(hf.TemperatureLogitsWarper(config.temperature))
        if config.top_k:
            processors.append(hf.TopKLogitsWarper(config.top_k))
        if config.top_p < 1.0:
            processors.append(hf.TopPLogitsWarper(config.top_p))
        if config.min_p is not None:
            processors.append(hf.MinPLogitsWarper(config.min_p))
    with torch.no_grad():
        return processors(torch.tensor([ids]), torch.tensor(scores[None]))[0].numpy()


SETTINGS = [
    dict(repetition_penalty=1.3),
    dict(repetition_penalty=0.7),
    dict(no_repeat_ngram_size=1),
    dict(no_repeat_ngram_size=2),
    dict(no_repeat_ngram_size=3),
    dict(min_new_tokens=10, eos_token_id=[3, 7]),
    dict(do_sample=True, top_k=0),
    dict(do_sample=True, temperature=0.6, top_k=0),
    dict(do_sample=True, top_k=1),
    dict(do_sample=True, top_k=5),
    dict(do_sample=True, top_k=1000),
    dict(do_sample=True, top_k=0, top_p=0.5),
    dict(do_sample=True, top_k=0, top_p=0.001),
    dict(do_sample=True, top_k=0, top_p=0.95),
    dict(do_sample=True, top_k=0, min_p=0.1),
    dict(do_sample=True, top_k=0, min_p=1.0),
    dict(do_sample=True, temperature=1.7, top_k=40, top_p=0.9, min_p=0.05),
    dict(do_sample=True, repetition_penalty=1.2, no_repeat_ngram_size=2, temperature=0.8, top_k=20, top_p=0.8),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=[",".join(f"{k}={v}" for k, v in s.items()) for s in SETTINGS])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_process_equals_transformers(transformers, settings, seed):
    random = np.random.default_rng(seed)
    scores = (random.standard_normal(VOCABULARY) * 4).astype(np.float32)
    ids = random.integers(0, 12, 40).tolist()  # few different ids, so that n-grams do repeat
    config = GenerationConfig(**settings)
    expected = oracle(transformers, scores, ids, prompt_length=len(ids) - 4, config=config)
    before = scores.copy()
    actual = process(scores, ids, new_tokens=4, config=config)
    np.testing.assert_array_equal(actual == -np.inf, expected == -np.inf)
    finite = expected > -np.inf
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=1e-6)
    np.testing.assert_array_equal(scores, before)  # the model's logits are left alone


def test_ngrams_shorter_than_the_text_so_far_ban_nothing(transformers):
    scores = np.arange(VOCABULARY, dtype=np.float32)
    config = GenerationConfig(no_repeat_ngram_size=5)
    for length in (3, 4, 5):
        ids = [1] * length
        expected = oracle(transformers, scores, ids, 0, config)
        np.testing.assert_array_equal(process(scores, ids, 0, config), expected)


def test_top_k_keeps_ties_and_top_p_always_keeps_one():
    tied = np.array([1, 5, 5, 5, 0], np.float32)
    kept = process(tied, [0], 0, GenerationConfig(do_sample=True, top_k=2)) > -np.inf
    np.testing.assert_array_equal(kept, [False, True, True, True, False])
    kept = process(np.array([0, 9, 0], np.float32), [0], 0, GenerationConfig(do_sample=True, top_k=0, top_p=0.0))
    np.testing.assert_array_equal(kept > -np.inf, [False, True, False])


def test_draws_follow_the_distribution():
    scores = np.array([0.0, 1.0, 2.0, -1.0, -np.inf], np.float32)
    config = GenerationConfig(do_sample=True, top_k=0)
    generator = row_generators([[1]], seed=5)[0]
    draws = [next_token(scores, [1], 0, config, generator) for _ in range(20_000)]
    shares = np.bincount(draws, minlength=5) / len(draws)
    expected = softmax(scores)
    assert shares[4] == 0
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / len(draws))  # four standard deviations


def test_greedy_takes_the_first_of_equals_and_ignores_the_generator():
    scores = np.array([1, 7, 7, 0], np.float32)
    assert next_token(scores, [0], 0, GenerationConfig(), np.random.default_rng(0)) == 1
    zero = GenerationConfig(do_sample=True, temperature=0.0)
    assert next_token(scores, [0], 0, zero, np.random.default_rng(0)) == 1


def test_row_generators_depend_on_prompt_and_repetition_not_on_neighbours():
    def first(prompts: list[list[int]], row: int, seed: int = 1) -> float:
        return row_generators(prompts, seed)[row].random()

    alone = first([[1, 2, 3]], 0)
    assert first([[9], [1, 2, 3], [4, 4]], 1) == alone
    assert first([[1, 2, 3], [1, 2, 3]], 1) != alone
    assert first([[1, 2, 3]], 0, seed=2) != alone
    assert first([[1, 2, 4]], 0) != alone
    assert row_generators([[1]], None)[0].random() != row_generators([[1]], None)[0].random()


def test_broken_or_empty_distributions_are_errors():
    config = GenerationConfig(no_repeat_ngram_size=1)
    with pytest.raises(LlmcoreError, match="NaN"):
        next_token(np.array([0, np.nan], np.float32), [0], 0, config, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="no_repeat_ngram_size"):
        next_token(np.zeros(2, np.float32), [0, 1], 2, config, np.random.default_rng(0))
