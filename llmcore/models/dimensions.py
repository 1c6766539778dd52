"""What memory and speed of a run follow from, under one name for all architectures."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """Sizes of a model, and how its numbers divide by what is done with them.

    `attention_width` is that of all query heads together, `positions` the longest sequence. `matrices` are multiplied
    with every token, `tables` are read row by row, `vectors` are norms and biases; all that is trained, tied weights
    once. `head` counts what multiplies every token to give its scores, be it a table of its own or the embedding's.
    """

    layers: int
    heads: int
    width: int
    attention_width: int
    positions: int
    matrices: int
    tables: int
    vectors: int
    head: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return self.matrices + self.tables + self.vectors + (0 if self.tied else self.head)

    @property
    def without_weight_decay(self) -> int:
        """Numbers that weight decay leaves alone: embeddings, norms and biases."""
        return self.tables + self.vectors

    @property
    def multiplied(self) -> int:
        """Numbers that take part in a matrix product of every token."""
        return self.matrices + self.head
