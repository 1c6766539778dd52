"""From what users pass in (arrays, lists) to the int32 tensors that the ops take."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmcore import _core
from llmcore.errors import DataError
from llmcore.labels import IGNORE_INDEX
from llmcore.models.cache import KVCache


def as_ids(input_ids: Any, device: str = "cpu") -> _core.Tensor:
    """(B, T) int32. Raises DataError for another number of dimensions or for anything but integers."""
    if isinstance(input_ids, _core.Tensor):
        ids = input_ids
    else:
        try:
            array = np.asarray(input_ids)
        except ValueError:
            message = "input_ids: the rows differ in length; pad them, for example with DataCollatorWithPadding"
            raise DataError(message) from None
        if array.dtype.kind not in "iu":
            raise DataError(f"input_ids must be integers, got an array of {array.dtype}")
        ids = _core.from_numpy(array, device=device)
    if len(ids.shape) != 2:
        raise DataError(f"input_ids must have shape (batch, time), got {ids.shape}; one sequence is [[...]]")
    return ids


def next_token_targets(labels: Any, shape: tuple[int, int]) -> _core.Tensor:
    """Labels moved one to the left and flattened, (B*T,): the target of each position is the token after it."""
    array = labels.numpy() if isinstance(labels, _core.Tensor) else np.asarray(labels)
    if array.shape != tuple(shape):
        raise DataError(f"labels must have the shape of input_ids, {tuple(shape)}, got {array.shape}")
    targets = np.full(array.shape, IGNORE_INDEX, np.int32)
    targets[:, :-1] = array[:, 1:]
    return _core.from_numpy(targets.reshape(-1))


def key_lengths(attention_mask: Any, shape: tuple[int, int]) -> _core.Tensor | None:
    """(B,) numbers of real tokens; None if nothing is padded. Raises DataError unless all padding is on the right."""
    mask = np.asarray(attention_mask).astype(bool)
    if mask.shape != tuple(shape):
        raise DataError(f"attention_mask must have the shape of input_ids, {tuple(shape)}, got {mask.shape}")
    if mask.all():
        return None
    lengths = mask.sum(axis=1).astype(np.int32)
    if not (mask == (np.arange(shape[1]) < lengths[:, None])).all():
        raise DataError("attention_mask: the padding must be on the right of each row (padding_side = 'right')")
    return _core.from_numpy(lengths)


def positions_of(shape: tuple[int, int], position_ids: Any, past: KVCache | None) -> _core.Tensor:
    """(B, T) int32: as given, or counted on from the cache, where each row counts from its own start."""
    if position_ids is not None:
        return as_ids(position_ids)
    B, T = shape
    columns = np.arange(T) + (past.length if past else 0)
    starts = past.starts if past else np.zeros(B, np.int32)
    return _core.from_numpy(np.maximum(columns[None, :] - starts[:, None], 0).astype(np.int32))
