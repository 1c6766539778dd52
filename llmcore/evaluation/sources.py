"""What callers evaluate on -> token sequences that are read piece by piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmcore.errors import ConfigError, DataError


@dataclasses.dataclass
class TokenSequence:
    """Tokens that belong together: predictions never look across its ends.

    `tokens` is an array (T,) or anything with `len()` and `read(start, count)`, such as a TokenShard. With `prefix`,
    that token stands before the first one. `text_bytes` is the length of the text that the tokens came from, if known.
    """

    tokens: Any
    prefix: int | None = None
    text_bytes: int | None = None

    def __len__(self) -> int:
        return len(self.tokens) + (self.prefix is not None)

    def read(self, start: int, end: int) -> np.ndarray:
        """Tokens `start` to `end`, int32 (end - start,), the prefix counted as number 0."""
        shift = int(self.prefix is not None)
        first, last = max(start - shift, 0), end - shift
        if isinstance(self.tokens, np.ndarray):
            ids = self.tokens[first:last]
        else:
            ids = self.tokens.read(first, last - first)
        if shift and start == 0:
            ids = np.concatenate([np.array([self.prefix], np.int32), ids])
        return ids.astype(np.int32, copy=False)


def token_sequences(data: Any, tokenizer: Any, prefix: int | None) -> list[TokenSequence]:
    """`data`: text, token ids (T,), a TokenShard, a dataset with `shards`, or a list of these; ids (B, T) are B
    sequences. Raises ConfigError for text without a tokenizer, DataError for what is none of these."""
    if isinstance(data, str):
        if tokenizer is None:
            raise ConfigError("evaluating text needs a tokenizer: pass tokenizer=..., or give token ids")
        ids = np.asarray(tokenizer.encode(data), np.int32)
        return [TokenSequence(ids, prefix, len(data.encode("utf-8", "surrogatepass")))]
    if hasattr(data, "shards"):
        data = list(data.shards)
    if hasattr(data, "read") and hasattr(data, "__len__"):
        return [TokenSequence(data, prefix)]
    if isinstance(data, np.ndarray) and data.ndim == 2:
        data = list(data)
    if isinstance(data, Sequence) and data and not isinstance(data[0], (int, np.integer)):
        return [sequence for part in data for sequence in token_sequences(part, tokenizer, prefix)]
    ids = np.asarray(data)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(
            "expected text, integer token ids of shape (T,) or (B, T), a TokenShard, a dataset with shards, or a list "
            f"of these; got {type(data).__name__} with entries of type {ids.dtype} and shape {ids.shape}"
        )
    return [TokenSequence(ids, prefix)]
