"""One row of scores -> the next token.

Every function takes and returns scores of shape (V,), float32; a token that is ruled out has the score -inf. Order and
meaning are those of transformers' logits processors; rows are processed one by one, so that a row's text cannot depend
on its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from llmcore.errors import ConfigError, LlmcoreError
from llmcore.generation.config import GenerationConfig


def repetition_penalty(scores: np.ndarray, ids: Sequence[int], penalty: float) -> np.ndarray:
    """Keskar et al. 2019 (CTRL, arXiv:1909.05858), section 4.1, with the sign rule of transformers: dividing a
    negative score would make the token likelier."""
    seen = np.unique(np.asarray(ids, np.int64))
    seen = seen[seen < len(scores)]
    scores = scores.copy()
    scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    return scores


def no_repeat_ngrams(scores: np.ndarray, ids: Sequence[int], size: int) -> np.ndarray:
    """Rules out every token that would complete a group of `size` tokens for the second time."""
    if len(ids) < size:
        return scores
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(ids, np.int64), size)  # (len(ids) - size + 1, size)
    begun = windows[:, :-1] == np.asarray(ids, np.int64)[len(ids) - size + 1 :]
    banned = windows[begun.all(axis=1), -1]
    scores = scores.copy()
    scores[banned[banned < len(scores)]] = -np.inf
    return scores


def without_tokens(scores: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Rules out `tokens`."""
    scores = scores.copy()
    scores[[token for token in tokens if token < len(scores)]] = -np.inf
    return scores


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Keeps the k highest scores, and those equal to the k-th (Fan et al. 2018, arXiv:1805.04833)."""
    if k >= len(scores):
        return scores
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.where(scores < threshold, -np.inf, scores).astype(scores.dtype)


def top_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Keeps the fewest likeliest tokens whose probabilities sum up to at least p, always the likeliest one (Holtzman
    et al. 2020, arXiv:1904.09751)."""
    kept = np.flatnonzero(scores > -np.inf)  # after top-k only these few need sorting
    order = kept[np.argsort(scores[kept], kind="stable")]  # unlikeliest first
    below = np.cumsum(softmax(scores[order]))  # probability of a token and all that are less likely
    removed = order[below <= 1 - p]
    scores = scores.copy()
    scores[removed[removed != order[-1]]] = -np.inf
    return scores


def min_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Keeps tokens with at least p times the likeliest token's probability (Nguyen et al. 2024, arXiv:2407.01082)."""
    probabilities = softmax(scores)
    return np.where(probabilities < p * probabilities.max(), -np.inf, scores).astype(scores.dtype)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (V,), float64."""
    shifted = np.exp(scores.astype(np.float64) - scores.max())
    return shifted / shifted.sum()


def process(scores: np.ndarray, ids: Sequence[int], new_tokens: int, config: GenerationConfig) -> np.ndarray:
    """All that `config` asks for, in transformers' order.

    `ids` are the row's tokens so far, prompt included, of which the last `new_tokens` were generated.
    """
    scores = scores.astype(np.float32, copy=False)
    if config.repetition_penalty != 1.0:
        scores = repetition_penalty(scores, ids, config.repetition_penalty)
    if config.no_repeat_ngram_size:
        scores = no_repeat_ngrams(scores, ids, config.no_repeat_ngram_size)
    if new_tokens < config.min_new_tokens and config.eos_token_ids:
        scores = without_tokens(scores, config.eos_token_ids)
    if not config.samples:
        return scores
    if config.temperature != 1.0:
        scores = scores / np.float32(config.temperature)
    if config.top_k:
        scores = top_k(scores, config.top_k)
    if config.top_p < 1.0:
        scores = top_p(scores, config.top_p)
    if config.min_p is not None:
        scores = min_p(scores, config.min_p)
    return scores


def next_token(
    logits: np.ndarray, ids: Sequence[int], new_tokens: int, config: GenerationConfig, generator: np.random.Generator
) -> int:
    """The next token of a row with the logits (V,).

    Raises LlmcoreError for logits that are no numbers, ConfigError if every token is ruled out.
    """
    if np.isnan(logits).any():
        raise LlmcoreError("the model's logits are NaN: its weights are not usable; was the training run stable?")
    scores = process(logits, ids, new_tokens, config)
    likeliest = int(scores.argmax())  # the first among equals
    if scores[likeliest] == -np.inf:
        raise ConfigError(
            f"after {new_tokens} new tokens every token of the vocabulary is ruled out; raise no_repeat_ngram_size "
            f"(it is {config.no_repeat_ngram_size}), or lower max_new_tokens"
        )
    if not config.samples:
        return likeliest
    kept = np.flatnonzero(scores > -np.inf)
    bounds = np.cumsum(softmax(scores[kept]))
    # The inverse of the distribution function: rounding of the logits moves the bounds by as little, so the draw is
    # the same unless it falls right on one.
    drawn = np.searchsorted(bounds, generator.random() * bounds[-1], side="right")
    return int(kept[min(drawn, len(kept) - 1)])


def row_generators(prompts: Sequence[Sequence[int]], seed: int | None) -> list[np.random.Generator]:
    """A random generator (Philox) for each row, derived from the seed, the row's prompt, and how many equal prompts
    stand before it: its text is the same whatever else is in the batch, and equal prompts get different texts."""
    if seed is None:
        seed = np.random.SeedSequence().entropy  # from the operating system
    seen: dict[bytes, int] = {}
    generators = []
    for prompt in prompts:
        digest = hashlib.sha256(np.asarray(prompt, "<i8").tobytes()).digest()
        number = seen[digest] = seen.get(digest, -1) + 1
        entropy = np.random.SeedSequence([seed, number, *np.frombuffer(digest, "<u4").tolist()])
        generators.append(np.random.Generator(np.random.Philox(entropy)))
    return generators
