"""The decoding loop: rows of different lengths, side by side, through one key/value cache.

Rows are padded on the left, so that their newest tokens stand in the same column; `starts` tells the model where each
row begins, and positions count from there. A row that is finished stays in the batch as a single token that sees only
itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmcore.generation.config import GenerationConfig
from llmcore.generation.sampling import next_token
from llmcore.generation.text import RowText
from llmcore.inference import inference


@dataclasses.dataclass
class Row:
    """One text under construction. `ids` holds prompt and new tokens, of which there may be `limit`."""

    ids: list[int]
    limit: int
    generator: np.random.Generator
    text: RowText | None
    prompt_length: int = 0
    window_start: int = 0
    """The first of `ids` that the model still sees."""
    finish_reason: str | None = None
    """None while running, then "stop" (end of text or a stop string) or "length"."""

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)

    @property
    def new_tokens(self) -> int:
        return len(self.ids) - self.prompt_length

    def append(self, token: int, ends_text: bool) -> None:
        """Adds a token and finds out whether the row is finished."""
        self.ids.append(token)
        stopped = self.text.push(token) if self.text is not None and not ends_text else ends_text
        if stopped or self.new_tokens >= self.limit:
            self.finish_reason = "stop" if stopped else "length"
            if self.text is not None and self.text.finish():
                self.finish_reason = "stop"


class DecodingLoop:
    """Iterating runs the model once for every new token of the longest row; `rows` are up to date after each step.

    `context` is the model's limit (None: none). A cache has at most that many columns, the padding included; when it
    is full, a new one is made of what the running rows still see. A row that has reached the limit goes on with its
    newer half.
    """

    def __init__(self, model: Any, rows: list[Row], config: GenerationConfig, context: int | None):
        self.model = model
        self.rows = rows
        self.config = config
        self.context = context
        self._cache: Any = None
        self._capacity = 0
        self._starts = np.zeros(len(rows), np.int32)

    def __iter__(self) -> Iterator[None]:
        ends = set(self.config.eos_token_ids)
        while any(row.finish_reason is None for row in self.rows):
            with inference(self.model):
                logits = self._next_logits()  # (B, V)
            for row, row_logits in zip(self.rows, logits, strict=True):
                if row.finish_reason is None:
                    token = next_token(row_logits, row.ids, row.new_tokens, self.config, row.generator)
                    row.append(token, token in ends)
            yield

    def _next_logits(self) -> np.ndarray:
        if self._cache is None or self._cache.length == self._capacity:
            return self._prefill()
        for index, row in enumerate(self.rows):
            if row.finish_reason is not None:
                self._starts[index] = self._cache.length
        return self._run(np.array([row.ids[-1:] for row in self.rows], np.int32))

    def _prefill(self) -> np.ndarray:
        """Fills a new cache with all that the rows see; the logits of their newest tokens (B, V)."""
        windows = [self._window(row) for row in self.rows]
        width = max(len(window) for window in windows)
        ids = np.zeros((len(windows), width), np.int32)  # in a padded place nothing is seen, so any id will do
        for index, window in enumerate(windows):
            self._starts[index] = width - len(window)
            ids[index, width - len(window) :] = window
        self._capacity = width
        if self.config.use_cache:
            # The last token of a text is never fed back, so n new tokens take n - 1 columns.
            self._capacity += max(row.limit - row.new_tokens for row in self.rows if row.finish_reason is None) - 1
        if self.context is not None:
            self._capacity = min(self._capacity, self.context)
        self._cache = None  # freed before the next one is made
        self._cache = self.model.new_cache(len(windows), self._capacity)
        return self._run(ids)

    def _window(self, row: Row) -> list[int]:
        """What the model sees of a row; of a finished one a single token, to keep its place."""
        if row.finish_reason is not None:
            return row.ids[-1:]
        if self.context is not None and len(row.ids) - row.window_start > self.context:
            row.window_start = len(row.ids) - max(1, self.context // 2)
        return row.ids[row.window_start :]

    def _run(self, ids: np.ndarray) -> np.ndarray:
        # Only the last position's logits: those of a whole prompt may well be larger than the model.
        output = self.model(ids, past=self._cache, starts=self._starts.copy(), logits_to_keep=1)
        return output.logits.numpy()[:, -1]
