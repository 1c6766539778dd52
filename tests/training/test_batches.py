"""Loaders over every kind of dataset, and the counting of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.data.loader import TokenLoader
from llmcore.errors import DataError
from llmcore.models import GPT2LMHeadModel
from llmcore.training.arguments import TrainingArguments
from llmcore.training.batches import (
    HostFedLoader,
    accepted_arguments,
    count_input_tokens,
    count_trained_tokens,
    make_loader,
    shifts_labels,
)

from .helpers import BigramForCausalLM, make_rows

ARGS = TrainingArguments()


def ids_of(loader) -> list[list[int]]:
    return [row.tolist() for batch in loader for row in np.asarray(batch["input_ids"])]


def test_sequence_of_rows_is_shuffled_by_seed_and_kept_whole():
    rows = make_rows(count=10)
    first = ids_of(make_loader(rows, ARGS, batch_size=4))
    assert first == ids_of(make_loader(rows, ARGS, batch_size=3)) != [row["input_ids"] for row in rows]
    assert sorted(first) == sorted(row["input_ids"] for row in rows)
    assert first != ids_of(make_loader(rows, TrainingArguments(data_seed=1), batch_size=4))
    in_order = [row["input_ids"] for row in rows]
    assert ids_of(make_loader(rows, ARGS, batch_size=4, training=False)) == in_order
    assert ids_of(make_loader(rows, TrainingArguments(train_sampling_strategy="sequential"), batch_size=4)) == in_order


def test_drop_last_is_for_training_only():
    args, rows = TrainingArguments(dataloader_drop_last=True), make_rows(count=10)
    assert len(ids_of(make_loader(rows, args, batch_size=4))) == 8
    assert len(ids_of(make_loader(rows, args, batch_size=4, training=False))) == 10


def test_loader_is_used_as_it_is():
    loader = make_loader(make_rows(), ARGS, batch_size=4)
    assert isinstance(loader, TokenLoader)
    assert make_loader(loader, ARGS, batch_size=9) is loader


def test_other_columns_are_dropped_before_collating():
    rows = [{**row, "text": "x", "label": 1} for row in make_rows(count=4)]
    batch = next(iter(make_loader(rows, ARGS, batch_size=4, columns={"input_ids"}, collator=lambda rows: rows[0])))
    assert set(batch) == {"input_ids", "labels", "label"}


def test_group_by_length_covers_everything_once_with_little_padding():
    random = np.random.default_rng(0)
    rows = [{"input_ids": [index] * int(random.integers(1, 60)), "labels": [0]} for index in range(400)]
    args = TrainingArguments(train_sampling_strategy="group_by_length")

    def lengths(arguments):
        loader = make_loader(rows, arguments, batch_size=4, collator=lambda rows: {"input_ids": rows})
        return [[len(row["input_ids"]) for row in batch["input_ids"]] for batch in loader], loader

    grouped, loader = lengths(args)
    plain, _ = lengths(ARGS)
    assert sorted(sum(grouped, [])) == sorted(len(row["input_ids"]) for row in rows)
    waste = [sum(max(batch) * len(batch) - sum(batch) for batch in batches) for batches in (grouped, plain)]
    assert waste[0] < 0.1 * waste[1]
    assert grouped != sorted(grouped, reverse=True)  # groups are drawn, not the whole set sorted
    whole = loader.indices(1, 0, 400)
    for position in (0, 3, 150, 199, 200, 398):
        np.testing.assert_array_equal(loader.indices(1, position, 7), whole[position : position + 7])
    assert sorted(whole) == list(range(400))
    with pytest.raises(DataError, match="not fixed blocks"):
        make_loader(Blocks(), args, batch_size=4)


class Blocks:
    block_size = 4

    def __len__(self):
        return 3

    def batch(self, indices):
        return {"input_ids": np.zeros((len(indices), 4), np.int32)}


def test_dataset_with_batch_method():
    (batch,) = make_loader(Blocks(), ARGS, batch_size=8)
    assert batch["input_ids"].shape == (3, 4)


def test_iterable_of_examples_and_of_batches():
    rows = make_rows(count=10)
    loader = make_loader((row for row in rows), ARGS, batch_size=4)
    assert ids_of(loader) == [row["input_ids"] for row in rows]
    assert loader.state() == {"epoch": 0, "position": 3} and not loader.restartable
    ready = [{"input_ids": np.ones((2, 3), np.int32)}, {"input_ids": [[1, 2], [3, 4]]}]
    assert [batch["input_ids"] for batch in HostFedLoader(iter(ready), 1)] == [batch["input_ids"] for batch in ready]


def test_restartable_iterable_counts_epochs():
    class Source:
        def __iter__(self):
            return iter(make_rows(count=5))

    loader = make_loader(Source(), ARGS, batch_size=2)
    assert len(list(loader)) == 3 and loader.state() == {"epoch": 1, "position": 0}
    assert len(list(loader)) == 3
    loader.seek(1, 2)
    assert len(list(loader)) == 1
    with pytest.raises(DataError, match="ends before batch 7"):
        loader.seek(1, 7)
    with pytest.raises(DataError, match="empty"):
        list(make_loader(iter([]), ARGS, batch_size=2))


def test_trained_tokens():
    labels = np.array([[5, -100, 3, -100], [-100, -100, 1, 2]])
    assert count_trained_tokens(labels, shifted=False) == 4
    assert count_trained_tokens(labels, shifted=True) == 3
    assert count_trained_tokens([[1, 2, 3]], shifted=True) == 2
    assert count_trained_tokens(np.array([0.5, 0.25]), shifted=False) == 2  # regression


def test_input_tokens():
    batch = {"input_ids": [[1, 2, 3], [4, 5, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}
    assert [count_input_tokens(batch, kind) for kind in ("no", "all", "non_padding")] == [0, 6, 5]
    assert count_input_tokens({"input_ids": np.zeros((2, 7), np.int32)}, "non_padding") == 14


def test_what_a_model_takes():
    class Wrapped(BigramForCausalLM):
        def __call__(self, *args, extra=None, **kwargs):
            return super().__call__(*args, **kwargs)

    assert accepted_arguments(Wrapped()) == accepted_arguments(BigramForCausalLM()) | {"extra"}
    assert shifts_labels(Wrapped.__mro__[1]()) and not shifts_labels(Wrapped())
    assert shifts_labels(GPT2LMHeadModel.__new__(GPT2LMHeadModel))


def test_datasets_of_hugging_face_are_sequences_of_rows():
    datasets = pytest.importorskip("datasets")
    rows = [{"input_ids": [index, 1], "labels": index, "text": "x"} for index in range(6)]
    loader = make_loader(datasets.Dataset.from_list(rows), ARGS, batch_size=4, training=False, columns={"input_ids"})
    batches = list(loader)
    assert [batch["labels"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert set(batches[0]) == {"input_ids", "labels"} and batches[1]["input_ids"].tolist() == [[4, 1], [5, 1]]
