"""Rows that hold several documents: attention sees each document by itself.

Positions that start again at 0 inside a row mark where the next document begins. Everything but attention works on
tokens one by one and need not know; for attention the tokens of each document become a row of their own, padded only
to a power of two of the document's length, and go back to their place afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Tensor


class Documents:
    """Where the documents of packed rows lie.

    `groups`: for documents of similar length, the row number of each token (documents, longest of the group), and the
    lengths (documents,), both int32. `places` (B*T,): where each token stands in the groups' rows one after another.
    """

    def __init__(self, groups: list[tuple[_core.Tensor, _core.Tensor]], places: _core.Tensor, shape: tuple[int, int]):
        self.groups, self.places, self.shape = groups, places, shape

    def attend(self, attention: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`attention(*inputs, lengths)` for the documents of each group; inputs (B, T, any) -> (B, T, C)."""
        parts = []
        for rows, lengths in self.groups:
            gathered = [F.embedding(rows, F.view(x, (-1, x.shape[-1]))) for x in inputs]  # (documents, longest, any)
            y = attention(*gathered, lengths)
            parts.append(F.view(y, (-1, y.shape[-1])))
        joined = parts[0] if len(parts) == 1 else F.concat(parts, axis=0)
        return F.view(F.embedding(self.places, joined), (*self.shape, joined.shape[-1]))


def find_documents(positions: np.ndarray, mask: np.ndarray | None, device: str = "cpu") -> Documents | None:
    """The documents that `positions` (B, T) mark, without what `mask` (B, T) leaves out; None where each row is one.

    Positions that do anything else than count on or start again at 0 mark none.
    """
    B, T = positions.shape
    real = np.ones((B, T), bool) if mask is None else np.asarray(mask).astype(bool)
    begins = positions == 0
    counts_on = np.zeros((B, T), bool)
    counts_on[:, 1:] = positions[:, 1:] == positions[:, :-1] + 1
    if not (begins & real)[:, 1:].any() or not ((begins | counts_on) | ~real).all():
        return None
    begins[:, 0] = True
    begins[:, 1:] |= real[:, 1:] != real[:, :-1]
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], B * T)
    kept = real.reshape(-1)[starts]
    starts, sizes = starts[kept], (ends - starts)[kept]
    # a padded token is no document's; it reads the first place, and nothing reads it
    places = np.zeros(B * T, np.int32)
    groups, offset = [], 0
    buckets = np.ceil(np.log2(sizes)).astype(int)
    for bucket in np.unique(buckets):
        chosen = np.flatnonzero(buckets == bucket)
        longest = int(sizes[chosen].max())
        columns = np.arange(longest)
        inside = columns[None, :] < sizes[chosen][:, None]
        rows = np.where(inside, starts[chosen][:, None] + columns[None, :], 0).astype(np.int32)
        slots = offset + np.arange(rows.size).reshape(rows.shape)
        places[rows[inside]] = slots[inside]
        lengths = sizes[chosen].astype(np.int32)
        groups.append((_core.from_numpy(rows, device=device), _core.from_numpy(lengths, device=device)))
        offset += rows.size
    return Documents(groups, _core.from_numpy(places, device=device), (B, T))
