"""Lists of token ids of different lengths -> rectangular batches, with transformers' names and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmcore.errors import ConfigError


class BatchEncoding(dict[str, Any]):
    """What a tokenizer call returns: a dict that also has its keys as attributes, as in transformers.

    `encodings` are the rows as `tokenizers` gave them, before padding, where the call needed more than ids.
    """

    encodings: Sequence[Any] = ()

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the number of its word, None for special tokens. Raises ConfigError for rows of
        which only the ids were asked for."""
        if not self.encodings:
            raise ConfigError("word_ids needs a call with is_split_into_words=True or return_offsets_mapping=True")
        return self.encodings[batch_index].word_ids

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this encoding has no {name!r}; it has {', '.join(self) or 'nothing'}") from None


def check_return_tensors(return_tensors: str | None) -> None:
    """Raises ConfigError for anything but None and "np", saying what to write instead."""
    if return_tensors in ("pt", "tf", "jax", "mlx"):
        raise ConfigError(
            f'return_tensors="{return_tensors}" needs another framework. Write return_tensors="np": models take numpy '
            "arrays as they are."
        )
    if return_tensors not in (None, "np"):
        raise ConfigError(f'return_tensors must be None or "np", got {return_tensors!r}.')


def pad_strategy(padding: bool | str) -> str:
    """transformers' `padding` argument -> "longest", "max_length" or "do_not_pad"."""
    strategies = {True: "longest", False: "do_not_pad"}
    strategy = strategies.get(padding, padding) if isinstance(padding, bool) else padding
    if strategy not in ("longest", "max_length", "do_not_pad"):
        raise ConfigError(f'padding must be True, False, "longest", "max_length" or "do_not_pad", got {padding!r}.')
    return strategy


def pad_rows(rows: Sequence[Sequence[int]], value: int, length: int, side: str) -> list[list[int]]:
    """Fill every row with `value` up to `length`; longer rows stay. `side`: "right" or "left"."""
    padded = []
    for row in rows:
        filler = [value] * max(length - len(row), 0)
        padded.append([*row, *filler] if side == "right" else [*filler, *row])
    return padded


def target_length(lengths: Sequence[int], strategy: str, max_length: int | None, multiple: int | None) -> int:
    """The common length of a padded batch. Raises ConfigError where "max_length" comes without a number."""
    if strategy == "max_length":
        if max_length is None:
            raise ConfigError('padding="max_length" needs max_length=, as the tokenizer has no model_max_length.')
        length = max_length
    else:
        length = max(lengths, default=0)
    return -(-length // multiple) * multiple if multiple else length


def to_arrays(batch: Mapping[str, Any]) -> BatchEncoding:
    """Every value as an int32 array. Raises ConfigError for rows of different lengths."""
    arrays = BatchEncoding()
    for name, value in batch.items():
        lengths = {len(row) for row in value} if value and isinstance(value[0], (list, tuple, np.ndarray)) else set()
        if len(lengths) > 1:
            raise ConfigError(
                f"{name} has rows of {min(lengths)} to {max(lengths)} tokens, no array: use padding=True and "
                "truncation=True with max_length= to bound it."
            )
        arrays[name] = np.array(value, np.int32)
    return arrays
