"""Windows cover every prediction once, and (seed, epoch, position) alone decides what comes next."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.data.loader import BlockDataset, ExampleDataset, TokenLoader
from llmcore.data.shard_writer import ShardWriter
from llmcore.data.shards import open_shard
from llmcore.errors import DataError


@pytest.fixture
def make_shard(tmp_path):
    def make(count, first=0):
        path = tmp_path / f"{first}-{count}.bin"
        with ShardWriter(path, 100_000) as writer:
            writer.add_document(np.arange(first, first + count), count, count)
        return open_shard(path)

    return make


def predictions(dataset):
    """(token before, token predicted) for every label that counts."""
    pairs = []
    for index in range(len(dataset)):
        batch = dataset.batch(np.array([index]))
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        pairs += [(int(ids[t]), int(labels[t + 1])) for t in range(len(ids) - 1) if labels[t + 1] != -100]
    return pairs


@pytest.mark.parametrize("tokens", [2, 3, 8, 9, 15, 16, 33, 100])
def test_with_the_tail_every_token_but_the_first_is_predicted_once(make_shard, tokens):
    dataset = BlockDataset(make_shard(tokens), 8, keep_tail=True)
    assert predictions(dataset) == [(t, t + 1) for t in range(tokens - 1)]
    assert dataset.dropped_tokens == 0


@pytest.mark.parametrize("tokens", [8, 9, 15, 16, 33, 100])
def test_without_the_tail_only_less_than_a_window_is_lost(make_shard, tokens):
    dataset = BlockDataset(make_shard(tokens), 8)
    kept = predictions(dataset)
    assert kept == [(t, t + 1) for t in range(len(kept))]
    assert dataset.dropped_tokens == tokens - 1 - len(kept) < 7


def test_windows_do_not_run_across_shards(make_shard):
    dataset = BlockDataset([make_shard(20), make_shard(3, 1000), make_shard(30, 2000)], 8)
    assert [dataset.window(i)[0] for i in range(len(dataset))] == [0, 7, 2000, 2007, 2014, 2021]
    assert all((np.diff(dataset.window(i)) == 1).all() for i in range(len(dataset)))
    with pytest.raises(IndexError):
        dataset.window(6)


def test_batch_is_int32_and_labels_are_unshifted(make_shard):
    batch = BlockDataset(make_shard(100), 8).batch(np.array([1, 0]))
    assert batch["input_ids"].dtype == batch["labels"].dtype == np.int32
    assert batch["input_ids"].tolist() == [list(range(7, 15)), list(range(8))]
    assert np.array_equal(batch["input_ids"], batch["labels"])


def test_too_little_text(make_shard):
    with pytest.raises(DataError, match="5 tokens in 1 shard.s. do not fill one window of 8"):
        BlockDataset(make_shard(5), 8)
    with pytest.raises(DataError, match="at least 2"):
        BlockDataset(make_shard(5), 1)


# ---- order ----


def flat(batches):
    return [batch["input_ids"][:, 0].tolist() for batch in batches]


@pytest.fixture
def dataset(make_shard):
    return BlockDataset(make_shard(7 * 23 + 1), 8)  # 23 windows


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_seeking_anywhere_equals_running_there(dataset, shuffle, drop_last):
    loader = TokenLoader(dataset, 4, seed=7, shuffle=shuffle, drop_last=drop_last)
    run, states = [], []
    for _ in range(3):
        for batch in loader:
            run.append(batch)
            states.append(loader.state())
    assert len(run) == 3 * len(loader) == 3 * (5 if drop_last else 6)
    for number, state in enumerate(states[:-1]):
        resumed = TokenLoader(dataset, 4, seed=7, shuffle=shuffle, drop_last=drop_last)
        resumed.seek(**state)
        rest = [batch for _ in range(4) for batch in resumed][: len(run) - number - 1]
        assert flat(rest) == flat(run[number + 1 :])


def test_an_epoch_gives_every_window_once(dataset):
    loader = TokenLoader(dataset, 4, seed=7)
    epochs = [sum(flat(loader), []) for _ in range(3)]
    assert all(sorted(epoch) == list(range(0, 7 * 23, 7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert [len(batch) for batch in flat(loader)] == [4, 4, 4, 4, 4, 3]
    assert loader.state() == {"epoch": 4, "position": 0}


def test_the_order_does_not_depend_on_the_batch_size(dataset):
    orders = [sum(flat(TokenLoader(dataset, size, seed=1)), []) for size in (1, 4, 23, 100)]
    assert all(order == orders[0] for order in orders)


def test_position_survives_another_batch_size(dataset):
    loader = TokenLoader(dataset, 4, seed=1)
    whole = sum(flat(TokenLoader(dataset, 4, seed=1)), [])
    iterator = iter(loader)
    next(iterator), next(iterator)
    assert loader.state() == {"epoch": 0, "position": 8}
    resumed = TokenLoader(dataset, 5, seed=1)
    resumed.seek(0, 8)
    assert sum(flat(resumed), []) == whole[8:]


def test_seeds_differ(dataset):
    assert flat(TokenLoader(dataset, 4, seed=1)) != flat(TokenLoader(dataset, 4, seed=2))
    assert sum(flat(TokenLoader(dataset, 4, shuffle=False)), []) == list(range(0, 7 * 23, 7))


def test_mistakes(dataset):
    with pytest.raises(DataError, match="23 samples do not fill one batch of 24"):
        TokenLoader(dataset, 24, drop_last=True)
    with pytest.raises(DataError, match="batch_size"):
        TokenLoader(dataset, 0)
    for epoch, position in ((-1, 0), (0, -1), (0, 24)):
        with pytest.raises(DataError, match="positions 0 to 23"):
            TokenLoader(dataset, 4).seek(epoch, position)


def test_examples():
    examples = [{"input_ids": [i, i + 1], "label": i % 2} for i in range(5)]
    for given in (examples, iter(examples)):
        loader = TokenLoader(ExampleDataset(given), 2, shuffle=False)
        batches = list(loader)
        assert [batch["input_ids"].tolist() for batch in batches] == [[[0, 1], [1, 2]], [[2, 3], [3, 4]], [[4, 5]]]
        assert batches[0]["labels"].tolist() == [0, 1]
    assert ExampleDataset(examples, collator=len).batch(np.array([0, 3])) == 2
    with pytest.raises(DataError, match="not a single example"):
        ExampleDataset([])
