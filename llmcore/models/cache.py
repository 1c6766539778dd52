"""The key/value cache of generation."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmcore import _core
from llmcore.autograd import Tensor
from llmcore.errors import ConfigError


class KVCache:
    """Keys and values of the positions seen so far, one pair of (B, capacity, NKV*HS) tensors per layer.

    Rows may start at different positions (left padding): `starts` (B,) is the first valid position of each. `length`
    counts positions, padding included, and is the same for all rows.
    """

    def __init__(self, layers: int, batch_size: int, capacity: int, width: int, dtype: _core.DType, device: str):
        shape = (batch_size, capacity, width)
        self.keys = [_core.zeros(shape, dtype, device) for _ in range(layers)]
        self.values = [_core.zeros(shape, dtype, device) for _ in range(layers)]
        self.batch_size, self.capacity, self.width = batch_size, capacity, width
        self.starts = np.zeros(batch_size, np.int32)
        self.length = 0
        self.device = device
        self._bounds_of: tuple[int, list[int]] | None = None
        self._on_device: Any = None

    def check_room(self, count: int) -> None:
        if self.length + count > self.capacity:
            raise ConfigError(
                f"the cache holds {self.capacity} positions, {self.length} are used and {count} more were given; "
                "make it with a larger capacity"
            )

    def write(self, layer: int, k: _core.Tensor, v: _core.Tensor) -> None:
        """Puts k, v (B, T, NKV*HS) behind the positions so far. `advance(T)` follows after the last layer."""
        count = k.shape[1]
        for cache, new in ((self.keys[layer], k), (self.values[layer], v)):
            rows = cache.view((self.batch_size * self.capacity, self.width))
            fresh = new.view((self.batch_size * count, self.width))
            for b in range(self.batch_size):
                rows.narrow(b * self.capacity + self.length, count).copy_(fresh.narrow(b * count, count))

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, num_heads: int, num_kv_heads: int, scale: float
    ) -> Tensor:
        """Adds k, v (B, T, NKV*HS) and lets q (B, T, NH*HS) see all keys up to its own -> (B, T, NH*HS). No gradient.

        Like `write`, to be followed by `advance(T)` after the last layer.
        """
        self.write(layer, k.data, v.data)
        starts, lengths = self._bounds(self.length + q.shape[1])
        keys, values = self.keys[layer], self.values[layer]
        return Tensor(_core.attention_decode(q.data, keys, values, num_heads, num_kv_heads, starts, lengths, scale))

    def _bounds(self, end: int) -> tuple[_core.Tensor, _core.Tensor]:
        """Where each row's keys begin and end, (B,) int32 each: the same for all layers of a forward pass."""
        if self._bounds_of != (end, self.starts.tolist()):
            lengths = np.full(self.batch_size, end, np.int32)
            self._on_device = tuple(_core.from_numpy(array, device=self.device) for array in (self.starts, lengths))
            self._bounds_of = (end, self.starts.tolist())
        return self._on_device

    def advance(self, count: int) -> None:
        self.length += count
