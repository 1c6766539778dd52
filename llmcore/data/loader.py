"""Windows over shards, and batches in an order that is a pure function of (seed, epoch, position).

The position counts the samples that an epoch has given out, not the batches, so a run can be resumed with another batch
size.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from llmcore.data.permutation import Permutation
from llmcore.data.shards import TokenShard
from llmcore.errors import DataError
from llmcore.labels import IGNORE_INDEX

Batch = dict[str, np.ndarray]


class Dataset(Protocol):
    """What `TokenLoader` needs: a length, and the batch for a list of sample numbers."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> Batch: ...


class BlockDataset:
    """Fixed windows of `block_size` tokens over the token streams of one or more shards.

    Neighbouring windows share one token: the model predicts tokens 1 to T-1 of a window of T, so with the shared one
    every token of a shard but its first is predicted exactly once. Windows do not run across shards. What is left at
    the end of a shard is dropped (`dropped_tokens`), or, with `keep_tail=True`, becomes a window padded with label
    -100: use that to evaluate on every token. Raises DataError where there is not a single window.
    """

    def __init__(self, shards: TokenShard | Sequence[TokenShard], block_size: int, *, keep_tail: bool = False) -> None:
        if block_size < 2:
            raise DataError(f"block_size must be at least 2 (one token and the one to predict), got {block_size}.")
        self.shards = [shards] if isinstance(shards, TokenShard) else list(shards)
        self.block_size = block_size
        stride = block_size - 1
        predictions = [max(len(shard) - 1, 0) for shard in self.shards]
        counts = [-(-p // stride) if keep_tail else p // stride for p in predictions]
        self._ends = np.cumsum(counts, dtype=np.int64).tolist()  # windows up to and including each shard
        self.dropped_tokens = sum(max(p - count * stride, 0) for p, count in zip(predictions, counts, strict=True))
        if len(self) == 0:
            tokens = sum(map(len, self.shards))
            raise DataError(
                f"{tokens:,} tokens in {len(self.shards)} shard(s) do not fill one window of {block_size}: choose a "
                "block_size of at most the number of tokens, or give more text."
            )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def window(self, index: int) -> np.ndarray:
        """The tokens of window `index`, int32 (block_size,), shorter only for a kept tail."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        shard = self.shards[number]
        start = (index - (self._ends[number - 1] if number else 0)) * (self.block_size - 1)
        return shard.read(start, min(self.block_size, len(shard) - start))

    def batch(self, indices: np.ndarray) -> Batch:
        """`input_ids` and `labels`, int32 (B, block_size); labels are unshifted, the model shifts them."""
        input_ids = np.zeros(
            (len(indices), self.block_size), np.int32
        )  # a padded place holds id 0, which nothing predicts
        labels = np.full((len(indices), self.block_size), IGNORE_INDEX, np.int32)
        for row, index in enumerate(indices):
            tokens = self.window(int(index))
            input_ids[row, : len(tokens)] = tokens
            labels[row, : len(tokens)] = tokens
        return {"input_ids": input_ids, "labels": labels}


class ExampleDataset:
    """Examples (mappings such as {"input_ids": [...], "labels": 1}) that a collator turns into batches.

    `examples` is a sequence, used as it is, or any other iterable, which is read into a list. `collator` takes a list
    of examples; without one, `default_data_collator` stacks them.
    """

    def __init__(
        self,
        examples: Sequence[Mapping[str, Any]] | Iterable[Mapping[str, Any]],
        collator: Callable[[list[Any]], Batch] | None = None,
    ) -> None:
        if collator is None:
            from llmcore.data.collators import default_data_collator as collator
        is_sequence = hasattr(examples, "__len__") and hasattr(examples, "__getitem__")
        self.examples: Sequence[Mapping[str, Any]] = examples if is_sequence else list(examples)  # type: ignore[assignment]
        self.collator = collator
        if len(self.examples) == 0:
            raise DataError("there is not a single example in the dataset.")

    def __len__(self) -> int:
        return len(self.examples)

    def at(self, epoch: int, position: int) -> None:
        """Hands the place of the next batch to a collator whose result depends on it, as masks do."""
        if hasattr(self.collator, "at"):
            self.collator.at(epoch, position)

    def batch(self, indices: np.ndarray) -> Batch:
        """The collated examples of these numbers."""
        return self.collator([self.examples[int(index)] for index in indices])


class TokenLoader:
    """Batches of a dataset, epoch after epoch.

    Iterating yields what is left of the current epoch and moves on to the next one; `state()` after a batch is the
    place of the next. The last, smaller batch of an epoch is given out unless `drop_last`.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, seed: int = 42, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}.")
        if drop_last and len(dataset) < batch_size:
            raise DataError(
                f"{len(dataset)} samples do not fill one batch of {batch_size}, and drop_last drops smaller ones: "
                "lower the batch size, or set drop_last=False."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0  # samples of this epoch already given out

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        samples = len(self.dataset)
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        while self.epoch == epoch and (batch := self._next_in_epoch()) is not None:
            yield batch
        if self.epoch == epoch:  # nobody has sought elsewhere meanwhile
            self.epoch, self.position = epoch + 1, 0

    def indices(self, epoch: int, position: int, count: int) -> np.ndarray:
        """The numbers of the samples `position` to `position + count` of an epoch, int64; fewer at its end."""
        positions = np.arange(position, min(position + count, len(self.dataset)), dtype=np.int64)
        return Permutation(len(self.dataset), self.seed, epoch)[positions] if self.shuffle else positions

    def state(self) -> dict[str, int]:
        """Where the next batch comes from."""
        return {"epoch": self.epoch, "position": self.position}

    def seek(self, epoch: int, position: int) -> None:
        """Go on from there, at no cost. Raises DataError outside the epoch."""
        if epoch < 0 or not 0 <= position <= len(self.dataset):
            raise DataError(
                f"cannot seek to epoch {epoch}, position {position}: an epoch has the positions 0 to "
                f"{len(self.dataset)}. Is this the data that the run was started with?"
            )
        self.epoch, self.position = epoch, position

    def _next_in_epoch(self) -> Batch | None:
        indices = self.indices(self.epoch, self.position, self.batch_size)
        if len(indices) == 0 or (self.drop_last and len(indices) < self.batch_size):
            return None
        if hasattr(self.dataset, "at"):
            self.dataset.at(self.epoch, self.position)
        batch = self.dataset.batch(indices)
        self.position += len(indices)
        return batch
