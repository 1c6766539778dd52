"""Rows of text to rows of tokens: what lets `Trainer(train_dataset=[{"text": ...}])` work, as TRL's trainer does.

Rows with the column `dataset_text_field` are language modelling text; rows with `prompt` and `completion` are trained
on the completion only, unless told otherwise. Each ends with the end-of-text token, and that is trained on: a model
learns to stop.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore.errors import ConfigError, DataError
from llmcore.training.batches import IGNORE_INDEX

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments


@dataclasses.dataclass
class TokenizedRows(Sequence[dict[str, list[int]]]):
    """Rows with `input_ids` and `labels`, and what tokenizing did to them."""

    rows: list[dict[str, list[int]]]
    truncated: int
    dropped_tokens: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]


def is_text(dataset: Any, text_field: str) -> bool:
    """Whether `dataset` is a sequence of rows of text without `input_ids`."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        return False
    if isinstance(dataset, Mapping):
        return False
    if hasattr(dataset, "batch") and not hasattr(dataset, "column_names"):  # a token dataset of llmcore.data
        return False
    first = dataset[0]
    return isinstance(first, Mapping) and "input_ids" not in first and (text_field in first or "completion" in first)


def tokenize_rows(dataset: Any, tokenizer: Any, args: TrainingArguments, context_length: int | None) -> TokenizedRows:
    """Tokenizes rows of text, cuts them at `max_length` (or the model's context) or packs them into blocks of that
    length.
    """
    if tokenizer is None:
        raise ConfigError("a dataset of text needs a tokenizer: give processing_class= to the trainer")
    length = min(args.max_length, context_length or args.max_length)
    pairs = (_tokenize(row, tokenizer, args) for row in dataset)
    if args.packing:
        return _pack(pairs, length)
    rows, truncated, dropped = [], 0, 0
    for ids, labels in pairs:
        truncated += len(ids) > length
        dropped += max(0, len(ids) - length)
        if len(ids) > 1:  # a single token predicts nothing
            rows.append({"input_ids": ids[:length], "labels": labels[:length]})
    if not rows:
        raise DataError("no row of the dataset holds two tokens or more")
    return TokenizedRows(rows, truncated, dropped)


def _tokenize(row: Mapping[str, Any], tokenizer: Any, args: TrainingArguments) -> tuple[list[int], list[int]]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if "completion" in row:
        prompt = np.asarray(tokenizer.encode(row.get("prompt") or "")).tolist()
        completion = np.asarray(tokenizer.encode(row["completion"])).tolist() + end
        ids = prompt + completion
        if args.completion_only_loss is False:
            return ids, list(ids)
        return ids, [IGNORE_INDEX] * len(prompt) + completion
    if args.completion_only_loss:
        raise ConfigError("completion_only_loss=True needs rows with 'prompt' and 'completion'")
    if not isinstance(row.get(args.dataset_text_field), str):
        raise DataError(f"a row has no text in its column {args.dataset_text_field!r}; set dataset_text_field")
    ids = np.asarray(tokenizer.encode(row[args.dataset_text_field])).tolist() + end
    return ids, list(ids)


def _pack(pairs: Any, length: int) -> TokenizedRows:
    ids: list[int] = []
    labels: list[int] = []
    for row_ids, row_labels in pairs:
        ids += row_ids
        labels += row_labels
    blocks = len(ids) // length
    if blocks == 0:
        raise DataError(f"the dataset holds {len(ids)} tokens, packing needs at least one block of max_length={length}")
    rows = [
        {"input_ids": ids[start : start + length], "labels": labels[start : start + length]}
        for start in itertools.islice(range(0, len(ids), length), blocks)
    ]
    return TokenizedRows(rows, 0, len(ids) - blocks * length)
