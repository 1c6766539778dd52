"""Perplexity and bits per byte, over disjoint or strided windows.

A model sees at most its context, so a long text is cut into windows, and the result depends on how: a token at the
beginning of a window is predicted from little. The convention is therefore part of every name.

- disjoint (`perplexity_disjoint_1024`): windows that share one token. Every token but the first of a sequence is
  predicted once, from what stands before it in its window: at least one token, on average half a window. This is how
  the training loader cuts text, and the rolling log-likelihood of lm-evaluation-harness with its context of one token.
- strided (`perplexity_strided_1024_512`: window 1024, stride 512): windows that move on by the stride and are scored on
  what is new in them, so that every token but those of the first window has at least window - stride tokens before it.
  This is transformers' guide on perplexity. It costs window / stride times as much.

Both predict the same tokens, so they share the counts. Only one batch of windows exists at a time, and logits only for
a chunk of rows inside the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmcore.errors import ConfigError, DataError
from llmcore.evaluation.sources import TokenSequence, token_sequences
from llmcore.inference import context_length
from llmcore.labels import IGNORE_INDEX

_DEFAULT_WINDOW = 1024


class Window(NamedTuple):
    """Tokens `start` to `end` of a sequence, of which those from `scored` on are predicted."""

    sequence: TokenSequence
    start: int
    scored: int
    end: int


def perplexity(
    model: Any,
    data: Any,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    tokenizer: Any = None,
    prefix_token_id: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float | int]:
    """How well a model predicts tokens.

    `data`: text, token ids (T,) or (B, T), a TokenShard, a dataset with `shards`, or a list of these; predictions never
    look across their borders. `window`: tokens the model sees at once (default: its context). `stride`: None for
    disjoint windows, else from 1 to window - 1. `tokenizer` adds bits per byte and is needed for text. With
    `prefix_token_id` (say, the end of text) before every sequence its first token is predicted too. `progress` is
    called with (tokens predicted, tokens in all) after every batch.

    Returns, with `<windows>` as `disjoint_1024` or `strided_1024_512`:

        perplexity_<windows>      exp(loss)
        loss_<windows>            nats per predicted token
        bits_per_byte_<windows>   nats / (ln 2 * bytes), all nats counted, those of special tokens too
        tokens, bytes             what was predicted: special tokens have no bytes; for text its own bytes are counted
        windows                   how many the model ran

    Raises ConfigError for windows that the model cannot see, DataError if there is nothing to predict.
    """
    window, name = _check_windows(model, window, stride)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    sequences = token_sequences(data, tokenizer, prefix_token_id)
    total = sum(max(len(sequence) - 1, 0) for sequence in sequences)
    if not total:
        raise DataError("there is nothing to predict: at least two tokens are needed, or one and prefix_token_id")
    byte_lengths = None if tokenizer is None else np.asarray(tokenizer.token_byte_lengths(), np.int64)

    window_nats, tokens, count, token_bytes = [], 0, 0, 0
    for batch in _batches(_windows(sequences, window, stride), batch_size):
        ids, labels = _arrays(batch)  # (B, T) each
        # exact sums: with rounded ones the last digits would depend on the batch size
        window_nats += [math.fsum(row) for row in model.per_token_loss(ids, labels).tolist()]
        tokens += sum(part.end - part.scored for part in batch)
        count += len(batch)
        if byte_lengths is not None:
            token_bytes += sum(_bytes_of(part, row, byte_lengths) for part, row in zip(batch, ids, strict=True))
        if progress is not None:
            progress(tokens, total)

    nats = math.fsum(window_nats)
    loss = nats / tokens
    result: dict[str, float | int] = {f"perplexity_{name}": _exp(loss), f"loss_{name}": loss}
    if byte_lengths is not None:
        token_bytes += sum(_text_bytes(sequence, byte_lengths) for sequence in sequences)
        if token_bytes:
            result[f"bits_per_byte_{name}"] = nats / (math.log(2) * token_bytes)
        result["bytes"] = token_bytes
    return {**result, "tokens": tokens, "windows": count}


def _check_windows(model: Any, window: int | None, stride: int | None) -> tuple[int, str]:
    context = context_length(model)
    if window is None:
        window = context or _DEFAULT_WINDOW
    if window < 2:
        raise ConfigError(f"window must be at least 2, one token to see and one to predict; got {window}")
    if context is not None and window > context:
        raise ConfigError(f"window={window} is more than the model sees at once; it has to be {context} or less")
    if stride is None:
        return window, f"disjoint_{window}"
    if not 1 <= stride < window:
        raise ConfigError(
            f"stride must be from 1 to {window - 1} for a window of {window}, got {stride}; leave it out for disjoint "
            "windows"
        )
    return window, f"strided_{window}_{stride}"


def _windows(sequences: Sequence[TokenSequence], window: int, stride: int | None) -> Iterator[Window]:
    # Disjoint windows share one token, which the next one needs to predict its first: a stride of window - 1.
    step = window - 1 if stride is None else stride
    for sequence in sequences:
        length, start, scored = len(sequence), 0, 1
        while scored < length:
            end = min(start + window, length)
            yield Window(sequence, start, scored, end)
            start, scored = start + step, end


def _batches(windows: Iterator[Window], batch_size: int) -> Iterator[list[Window]]:
    batch = []
    for window in windows:
        batch.append(window)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _arrays(batch: list[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and labels, int32 (B, T); what is not scored has the label -100. Short windows are padded on the right,
    where nothing before can see it."""
    width = max(part.end - part.start for part in batch)
    ids = np.zeros((len(batch), width), np.int32)
    labels = np.full((len(batch), width), IGNORE_INDEX, np.int32)
    for row, part in enumerate(batch):
        tokens = part.sequence.read(part.start, part.end)
        ids[row, : len(tokens)] = tokens
        labels[row, part.scored - part.start : len(tokens)] = tokens[part.scored - part.start :]
    return ids, labels


def _bytes_of(part: Window, ids: np.ndarray, byte_lengths: np.ndarray) -> int:
    """Bytes of the predicted tokens of a window; 0 where those of the text are known."""
    if part.sequence.text_bytes is not None:
        return 0
    predicted = ids[part.scored - part.start : part.end - part.start]
    return int(byte_lengths[predicted].sum())


def _text_bytes(sequence: TokenSequence, byte_lengths: np.ndarray) -> int:
    """Bytes of the predicted part of a text: all but the first token's, which nothing predicts without a prefix."""
    if sequence.text_bytes is None or len(sequence) < 2:
        return 0
    first = 0 if sequence.prefix is not None else int(byte_lengths[sequence.read(0, 1)].sum())
    return sequence.text_bytes - first


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
