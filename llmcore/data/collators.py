"""Examples -> padded batches, as numpy arrays, under transformers' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore.data.padding import check_return_tensors, pad_rows, target_length
from llmcore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer

IGNORE_INDEX = -100

Batch = dict[str, np.ndarray]


def default_data_collator(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack examples of equal lengths; `label` and `label_ids` become `labels`. Strings and None are left out.

    Integers become int32, floats float32. Raises DataError for rows of different lengths.
    """
    batch = {}
    for name in _common_names(examples):
        values = [example[name] for example in examples]
        if any(value is None or isinstance(value, str) for value in values):
            continue
        try:
            array = np.array(values)
        except ValueError:
            lengths = sorted({len(value) for value in values})
            raise DataError(
                f"the field {name!r} has rows of {lengths[0]} to {lengths[-1]} entries, which make no array: use "
                "DataCollatorWithPadding or DataCollatorForLanguageModeling."
            ) from None
        is_label = name in ("label", "label_ids")
        batch["labels" if is_label else name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
    return batch


@dataclass
class DataCollatorWithPadding:
    """Pads `input_ids` and `attention_mask` to the longest of the batch (or `max_length`); stacks everything else."""

    tokenizer: Tokenizer
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """`examples`: mappings with `input_ids` of any lengths. Returns int32 arrays, (B, T) and (B,)."""
        check_return_tensors(self.return_tensors)
        sequences, others = _split_fields(examples, ("input_ids", "attention_mask", "token_type_ids"))
        padded = self.tokenizer.pad(
            sequences,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors="np",
        )
        return {**padded, **default_data_collator(others)}


@dataclass
class DataCollatorForLanguageModeling:
    """Pads `input_ids` and adds `labels` for a causal model: the ids themselves (unshifted), -100 where padded.

    Padding is masked by its position, never by its id: with `pad_token = eos_token`, which GPT-2 users write, the
    end-of-text tokens of the examples still count, so the model learns to stop. Examples that bring their own `labels`
    keep them. Unlike transformers' collator `mlm` is False unless asked for, and asking for it raises ConfigError.
    """

    tokenizer: Tokenizer
    mlm: bool = False
    pad_to_multiple_of: int | None = None
    return_tensors: str = "np"

    def __post_init__(self) -> None:
        if self.mlm:
            raise ConfigError("there is no masked language model in llmcore yet; write mlm=False for causal models.")
        check_return_tensors(self.return_tensors)

    def __call__(self, examples: Sequence[Mapping[str, Any] | Sequence[int]]) -> Batch:
        """`examples`: mappings with `input_ids`, or bare lists of ids. Returns int32 (B, T) arrays."""
        mappings = [e if isinstance(e, Mapping) else {"input_ids": e} for e in examples]
        sequences, others = _split_fields(mappings, ("input_ids", "attention_mask", "labels"))
        labels = [row.pop("labels", row["input_ids"]) for row in sequences]
        for row, row_labels in zip(sequences, labels, strict=True):
            if len(row_labels) != len(row["input_ids"]):
                raise DataError(f"an example has {len(row['input_ids'])} input_ids but {len(row_labels)} labels.")
        batch = self.tokenizer.pad(sequences, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="np")
        length = target_length([len(row) for row in labels], "longest", None, self.pad_to_multiple_of)
        padded_labels = pad_rows(labels, IGNORE_INDEX, length, self.tokenizer.padding_side)
        return {**batch, "labels": np.array(padded_labels, np.int32), **default_data_collator(others)}


def _common_names(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(examples[0]) if examples else []
    for number, example in enumerate(examples):
        if set(example) != set(names):
            raise DataError(f"example 0 has the fields {sorted(names)}, example {number} has {sorted(example)}.")
    return names


def _split_fields(
    examples: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The fields that are padded, and the others, of every example."""
    if not examples:
        raise DataError("a batch needs at least one example.")
    for name in _common_names(examples):
        if name == "input_ids":
            break
    else:
        raise DataError(f"the examples have no input_ids, only {sorted(examples[0])}; tokenize the text first.")
    padded = [{name: example[name] for name in names if name in example} for example in examples]
    others = [{name: value for name, value in example.items() if name not in names} for example in examples]
    return padded, others
