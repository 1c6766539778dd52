"""From what users pass in (arrays, lists) to the int32 tensors that the ops take."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from llmcore import _core
from llmcore.errors import DataError
from llmcore.labels import IGNORE_INDEX
from llmcore.models.cache import KVCache


@dataclasses.dataclass
class Positions:
    """Where the tokens of a batch stand in their texts: `ids` (B, T) int32, and `count`, the largest of them plus one,
    which is known on the host, too."""

    ids: _core.Tensor
    count: int


@dataclasses.dataclass
class DeviceBatch:
    """A batch as a model's ops take it: `tensors` on the device, and in `facts` all else that decides what is computed
    (hashable values). Batches that agree in shapes and facts are computed by the same kernels with the same arguments.
    """

    tensors: dict[str, _core.Tensor]
    facts: dict[str, Any]

    def key(self) -> tuple[Any, ...]:
        """What two batches have to agree in."""
        shapes = tuple((name, tensor.shape) for name, tensor in self.tensors.items())
        return shapes, tuple(self.facts.items())


def as_array(values: Any) -> np.ndarray:
    """What a user passed in, on the host."""
    return values.numpy() if isinstance(values, _core.Tensor) else np.asarray(values)


def as_ids(input_ids: Any, device: str) -> _core.Tensor:
    """(B, T) int32 on `device`. Raises DataError for another number of dimensions or for anything but integers."""
    if isinstance(input_ids, _core.Tensor):
        ids = input_ids.to(device)
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


def next_token_targets(labels: Any, shape: tuple[int, int], device: str = "cpu") -> _core.Tensor:
    """Labels moved one to the left and flattened, (B*T,): the target of each position is the token after it."""
    array = as_array(labels)
    if array.shape != tuple(shape):
        raise DataError(f"labels must have the shape of input_ids, {tuple(shape)}, got {array.shape}")
    targets = np.full(array.shape, IGNORE_INDEX, np.int32)
    targets[:, :-1] = array[:, 1:]
    return _core.from_numpy(targets.reshape(-1), device=device)


def key_lengths(attention_mask: Any, shape: tuple[int, int], device: str = "cpu") -> _core.Tensor | None:
    """(B,) numbers of real tokens; None if nothing is padded. Raises DataError unless all padding is on the right."""
    mask = as_array(attention_mask).astype(bool)
    if mask.shape != tuple(shape):
        raise DataError(f"attention_mask must have the shape of input_ids, {tuple(shape)}, got {mask.shape}")
    if mask.all():
        return None
    lengths = mask.sum(axis=1).astype(np.int32)
    if not (mask == (np.arange(shape[1]) < lengths[:, None])).all():
        raise DataError("attention_mask: the padding must be on the right of each row (padding_side = 'right')")
    return _core.from_numpy(lengths, device=device)


def positions_of(shape: tuple[int, int], position_ids: Any, past: KVCache | None, device: str) -> Positions:
    """As given, or counted on from the cache, where each row counts from its own start."""
    if position_ids is not None:
        return Positions(as_ids(position_ids, device), int(as_array(position_ids).max(initial=-1)) + 1)
    B, T = shape
    columns = np.arange(T) + (past.length if past else 0)
    starts = past.starts if past else np.zeros(B, np.int32)
    positions = np.maximum(columns[None, :] - starts[:, None], 0).astype(np.int32)
    return Positions(_core.from_numpy(positions, device=device), int(positions.max(initial=-1)) + 1)
