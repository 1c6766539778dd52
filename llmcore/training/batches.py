"""Where the batches of a run come from: one interface over the kinds of datasets that the trainer accepts.

A loader iterates over what is left of the current epoch; `state()` names the place of the next batch and `seek(epoch,
position)` goes there. `TokenLoader` does that at no cost; iterators fed by a host are wrapped.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore.errors import DataError
from llmcore.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments

logger = logging.getLogger("llmcore")

Batch = dict[str, Any]
Collator = Callable[[list[Any]], Batch]

_LABELS = ("labels", "label", "label_ids")
_GROUPED_BATCHES = 50  # batches whose examples are sorted by length together, as in transformers


def make_loader(
    dataset: Any,
    args: TrainingArguments,
    *,
    batch_size: int,
    collator: Collator | None = None,
    columns: set[str] | None = None,
    training: bool = True,
) -> Any:
    """The loader over `dataset`.

    Args:
        dataset: a loader (iterable with `state` and `seek`), a dataset with `batch(indices)`, a sequence of dicts, or
        any iterable of
            examples or of ready batches.
        args: seed, sampling, drop_last.
        batch_size: examples in a batch.
        collator: list of examples -> batch; None stacks them.
        columns: columns that the model takes; None keeps all.
        training: False reads in order and keeps the last batch.

    Raises DataError if there is nothing to read or the dataset is of no known kind.
    """
    from llmcore.data.loader import ExampleDataset, TokenLoader
    from llmcore.data.shards import TokenShard

    if isinstance(dataset, (str, bytes, os.PathLike)):
        raise DataError(
            f"a dataset is not a path, got {str(dataset)!r}: read rows of it first, or make token files with "
            "`llmcore prepare` and give BlockDataset(open_shard('train.bin'), block_size)"
        )
    if isinstance(dataset, TokenShard):
        raise DataError("a shard has no rows, got TokenShard: give BlockDataset(shard, block_size)")
    if isinstance(dataset, Mapping):
        raise DataError(
            f"a dataset is a sequence of rows, got a {type(dataset).__name__} with {', '.join(map(str, dataset))}: "
            "give one of its entries"
        )
    if _is_loader(dataset):
        return dataset
    sized = hasattr(dataset, "__len__")
    if sized and len(dataset) == 0:
        raise DataError("the dataset is empty")
    # Hugging Face's Dataset has a method `batch`, too, which does something else
    if hasattr(dataset, "batch") and sized and not hasattr(dataset, "column_names"):
        samples: Any = dataset
    elif sized and hasattr(dataset, "__getitem__"):
        if isinstance(dataset[0], str):
            raise DataError("a row of a dataset is a dict: for text write [{'text': text} for text in texts]")
        samples = ExampleDataset(dataset, _without_other_columns(collator, columns))
    elif hasattr(dataset, "__iter__") or hasattr(dataset, "__next__"):
        return HostFedLoader(dataset, batch_size, _without_other_columns(collator, columns))
    else:
        raise DataError(
            f"a dataset is a sequence of dicts, an iterable, or a dataset of llmcore.data; got {type(dataset).__name__}"
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    shuffle = training and args.train_sampling_strategy != "sequential"
    drop_last = training and args.dataloader_drop_last
    if shuffle and args.train_sampling_strategy == "group_by_length":
        return length_grouped_loader(samples, batch_size, seed, drop_last)
    return TokenLoader(samples, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last)


def _is_loader(dataset: Any) -> bool:
    """Whether it gives out batches and knows its place as an epoch and a position, as `TokenLoader` does."""
    if not all(hasattr(dataset, name) for name in ("seek", "state", "__iter__")):
        return False
    place = dataset.state()
    return isinstance(place, Mapping) and {"epoch", "position"} <= set(place)


def length_grouped_loader(dataset: Any, batch_size: int, seed: int, drop_last: bool) -> Any:
    """A shuffled `TokenLoader` whose batches hold examples of similar length, so that little is padding."""
    from llmcore.data.loader import TokenLoader

    if not hasattr(dataset, "examples"):
        raise DataError("train_sampling_strategy='group_by_length' needs a sequence of examples, not fixed blocks")
    lengths = np.array([len(example["input_ids"]) for example in dataset.examples])
    group = batch_size * _GROUPED_BATCHES

    class Grouped(TokenLoader):
        def indices(self, epoch: int, position: int, count: int) -> np.ndarray:
            # still a pure function of (seed, epoch, position): whole groups are drawn, sorted, and cut
            first = position // group * group
            last = min(-(-(position + count) // group) * group, len(self.dataset))
            parts = []
            for start in range(first, last, group):
                drawn = super().indices(epoch, start, group)
                parts.append(drawn[np.argsort(-lengths[drawn], kind="stable")])
            return np.concatenate(parts or [np.empty(0, np.int64)])[position - first : position - first + count]

    return Grouped(dataset, batch_size, seed=seed, shuffle=True, drop_last=drop_last)


class HostFedLoader:
    """Batches from any iterable: examples are collected `batch_size` at a time, ready batches are passed on.

    If the source has `state()` and `seek(state)`, a resume is exact and free; otherwise it is exact if the source
    starts from the same place again, and costs reading up to there.
    """

    def __init__(self, source: Iterable[Any], batch_size: int, collator: Collator | None = None) -> None:
        self.source = source
        self.batch_size = batch_size
        self.collator = collator
        self.epoch = 0
        self.position = 0  # batches given out in this epoch
        self._iterator: Iterator[Any] | None = None

    @property
    def restartable(self) -> bool:
        """Whether the source can be read again from its start."""
        return not hasattr(self.source, "__next__")

    def __iter__(self) -> Iterator[Batch]:
        if self._iterator is None:
            self._iterator = iter(self.source)
        for batch in iter(self._next_batch, None):
            self.position += 1
            yield batch
        if self.position == 0:
            raise DataError("the dataset is empty")
        if self.restartable:
            self.epoch, self.position, self._iterator = self.epoch + 1, 0, None

    def _next_batch(self) -> Batch | None:
        assert self._iterator is not None
        first = next(self._iterator, None)
        if first is None:
            return None
        if _is_batch(first):
            return dict(first)
        return self._collate([first, *itertools.islice(self._iterator, self.batch_size - 1)])

    def _collate(self, examples: list[Any]) -> Batch:
        if hasattr(self.collator, "at"):
            self.collator.at(self.epoch, self.position)
        if self.collator is not None:
            return self.collator(examples)
        from llmcore.data.collators import default_data_collator

        return default_data_collator(examples)

    def state(self) -> dict[str, Any]:
        """The place of the next batch."""
        place: dict[str, Any] = {"epoch": self.epoch, "position": self.position}
        if hasattr(self.source, "state"):
            place["source"] = self.source.state()
        return place

    def seek(self, epoch: int, position: int, source: Any = None) -> None:
        """Goes to where `state` was taken. Raises DataError if the source ends before that."""
        self._iterator, self.epoch, self.position = None, epoch, position
        if source is not None and hasattr(self.source, "seek"):
            self.source.seek(source)
            return
        if position == 0 and epoch == 0:
            return
        logger.warning("the dataset has no state() and seek(): reading %d batches to come back to the place", position)
        self._iterator = iter(self.source)
        for _ in range(position):
            if self._next_batch() is None:
                raise DataError(f"the dataset ends before batch {position}, where the checkpoint was made")


def _is_batch(item: Any) -> bool:
    if not isinstance(item, Mapping) or "input_ids" not in item:
        return False
    ids = item["input_ids"]
    shape = getattr(ids, "shape", None)
    return len(shape) == 2 if shape is not None else bool(len(ids)) and hasattr(ids[0], "__len__")


def _without_other_columns(collator: Collator | None, columns: set[str] | None) -> Collator | None:
    if columns is None:
        return collator
    keep = columns | set(_LABELS) | set(getattr(collator, "columns", ()))

    def collate(examples: list[Any]) -> Batch:
        if isinstance(examples[0], Mapping):
            found = list(examples[0])
            examples = [{name: value for name, value in row.items() if name in keep} for row in examples]
            if not examples[0]:
                raise DataError(
                    f"none of the dataset's columns ({', '.join(map(str, found))}) is one that the model takes, such "
                    "as input_ids and labels; text is tokenized only if the dataset is a sequence, such as a list of "
                    "{'text': ...}, whose column dataset_text_field names"
                )
        if collator is not None:
            return collator(examples)
        from llmcore.data.collators import default_data_collator

        return default_data_collator(examples)

    if hasattr(collator, "at"):
        collate.at = collator.at  # type: ignore[attr-defined]
    return collate


def accepted_arguments(model: Any) -> set[str]:
    """Names of the arguments of a model's call; where it hands on `**kwargs`, those of the classes above it too."""
    names: set[str] = set()
    for owner in type(model).__mro__:
        if "__call__" not in vars(owner):
            continue
        parameters = inspect.signature(vars(owner)["__call__"]).parameters.values()
        hands_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= {parameter.name for parameter in parameters if parameter.kind not in variadic}
        if not hands_on:
            break
    return names - {"self"}


def shifts_labels(model: Any) -> bool:
    """Whether label t + 1 is predicted at position t: so it is for causal models."""
    return task_of(model) == "causal-lm"


# ends of class names -> task
_TASKS = {
    ("ForCausalLM", "LMHeadModel"): "causal-lm",
    ("ForMaskedLM",): "masked-lm",
    ("ForSequenceClassification",): "sequence-classification",
    ("ForTokenClassification",): "token-classification",
}


def task_of(model: Any) -> str | None:
    """What a model is trained for, by the head in its class's name; None for an unknown one."""
    name = type(model).__name__
    return next((task for ends, task in _TASKS.items() if name.endswith(ends)), None)


def predicts_words(model: Any) -> bool:
    """Whether its logits are scores of the whole vocabulary, (B, T, V): too many to keep for a dataset."""
    return task_of(model) in ("causal-lm", "masked-lm")


def count_trained_tokens(labels: Any, shifted: bool) -> int:
    """Number of labels that contribute to the loss: not -100, and for a causal model not the first of a row."""
    array = np.asarray(labels.numpy() if hasattr(labels, "numpy") else labels)
    if shifted and array.ndim == 2:
        array = array[:, 1:]
    return int(np.count_nonzero(array != IGNORE_INDEX)) if array.dtype.kind in "iu" else array.shape[0]


def count_input_tokens(batch: Mapping[str, Any], kind: str) -> int:
    """Input tokens of a batch: `kind` is all, or non_padding (by the attention mask, where there is one)."""
    if kind == "no" or "input_ids" not in batch:
        return 0
    if kind == "non_padding" and batch.get("attention_mask") is not None:
        return int(np.count_nonzero(np.asarray(batch["attention_mask"])))
    ids = batch["input_ids"]
    return int(np.prod(ids.shape)) if hasattr(ids, "shape") else int(np.asarray(ids).size)
