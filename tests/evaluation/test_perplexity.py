"""Perplexity against a reference in a few lines of NumPy, over all kinds of windows and data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from llmcore.data import BlockDataset, ShardWriter, byte_tokenizer, open_shard, train_bpe
from llmcore.errors import ConfigError, DataError
from llmcore.evaluation import perplexity

VOCABULARY, CONTEXT = 257, 16


def log_probabilities(seen: np.ndarray) -> np.ndarray:
    """Of the token after `seen` (T,): depends on every token and its position in the window."""
    random = np.random.default_rng(0)
    tokens, positions = random.standard_normal((VOCABULARY, 8)), random.standard_normal((CONTEXT, 8))
    readout = random.standard_normal((8, VOCABULARY))
    state = (0.8 ** np.arange(len(seen))[::-1]) @ (tokens[seen] + positions[: len(seen)])
    scores = state @ readout
    return scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())


@dataclasses.dataclass
class Config:
    vocab_size: int = VOCABULARY
    n_positions: int = CONTEXT


class Model:
    """`log_probabilities` behind the interface of a model."""

    def __init__(self) -> None:
        self.config = Config()
        self.shapes: list[tuple[int, int]] = []

    def per_token_loss(self, input_ids: Any, labels: Any) -> np.ndarray:
        B, T = input_ids.shape
        assert T <= CONTEXT
        self.shapes.append((B, T))
        losses = np.zeros((B, T), np.float32)
        for b in range(B):
            for t in range(T - 1):
                if labels[b, t + 1] != -100:
                    losses[b, t] = -log_probabilities(input_ids[b, : t + 1])[labels[b, t + 1]]
        return losses


def reference(sequences: list[list[int]], window: int, stride: int) -> tuple[float, int]:
    """Total nats and number of predictions, token by token: in the first window everything before a token is seen;
    later windows begin at multiples of the stride, and the first one that contains a token predicts it."""
    nats, count = 0.0, 0
    for ids in sequences:
        for position in range(1, len(ids)):
            beyond = max(0, position - window + 1)  # tokens that the first window is too short for
            start = math.ceil(beyond / stride) * stride
            nats -= log_probabilities(np.array(ids[start:position]))[ids[position]]
            count += 1
    return nats, count


def tokens(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, count).astype(np.int32)


@pytest.mark.parametrize("length", [2, 15, 16, 17, 31, 32, 100])
@pytest.mark.parametrize(("window", "stride"), [(16, None), (16, 8), (16, 15), (16, 1), (7, None), (7, 3), (2, None)])
def test_equals_the_reference(length, window, stride):
    ids = tokens(length)
    result = perplexity(Model(), ids, window=window, stride=stride, batch_size=3)
    nats, count = reference([ids.tolist()], window, stride or window - 1)
    name = f"disjoint_{window}" if stride is None else f"strided_{window}_{stride}"
    assert set(result) == {f"perplexity_{name}", f"loss_{name}", "tokens", "windows"}
    assert result["tokens"] == count == length - 1
    assert result[f"loss_{name}"] == pytest.approx(nats / count, rel=1e-6)
    assert result[f"perplexity_{name}"] == pytest.approx(math.exp(nats / count), rel=1e-6)


def test_strided_windows_have_more_to_see():
    """On tokens drawn from the model itself, so that more context does predict better."""
    random = np.random.default_rng(3)
    ids = [5]
    while len(ids) < 300:
        ids.append(int(random.choice(VOCABULARY, p=np.exp(log_probabilities(np.array(ids[-15:]))))))
    disjoint = perplexity(Model(), ids, window=16)["perplexity_disjoint_16"]
    strided = perplexity(Model(), ids, window=16, stride=4)["perplexity_strided_16_4"]
    assert strided < disjoint


@pytest.mark.parametrize("stride", [None, 5])
def test_batch_size_makes_no_difference(stride):
    data = [tokens(50), tokens(3, seed=2), tokens(16, seed=3), tokens(33, seed=4)]
    results = [perplexity(Model(), data, stride=stride, batch_size=size) for size in (1, 2, 5, 100)]
    for result in results[1:]:
        assert result.keys() == results[0].keys()
        for name, value in results[0].items():
            assert result[name] == pytest.approx(value, rel=1e-6)


def test_sequences_do_not_see_each_other():
    parts = [tokens(20), tokens(1, seed=2), tokens(30, seed=3)]
    nats, count = reference([part.tolist() for part in parts], 16, 15)
    assert perplexity(Model(), parts)["loss_disjoint_16"] == pytest.approx(nats / count, rel=1e-6)
    rows = tokens(40).reshape(2, 20)
    nats, count = reference(rows.tolist(), 16, 15)
    for form in (rows, rows.tolist(), list(rows)):
        result = perplexity(Model(), form)
        assert result["loss_disjoint_16"] == pytest.approx(nats / count, rel=1e-6) and result["tokens"] == 38


def test_a_prefix_predicts_the_first_token_too():
    ids = tokens(40)
    nats, count = reference([[256, *ids.tolist()]], 16, 7)
    result = perplexity(Model(), ids, stride=7, prefix_token_id=256)
    assert result["tokens"] == count == 40
    assert result["loss_strided_16_7"] == pytest.approx(nats / count, rel=1e-6)
    assert perplexity(Model(), [7], prefix_token_id=256)["tokens"] == 1


def test_bits_per_byte():
    tokenizer = byte_tokenizer()
    text = "Größe: 世界 and more plain text"
    ids = tokenizer.encode(text)
    nats, count = reference([ids.tolist()], 16, 15)
    result = perplexity(Model(), text, tokenizer=tokenizer)
    assert result["tokens"] == count and result["bytes"] == len(text.encode()) - 1  # the first byte is not predicted
    assert result["bits_per_byte_disjoint_16"] == pytest.approx(nats / math.log(2) / result["bytes"], rel=1e-6)
    assert perplexity(Model(), ids, tokenizer=tokenizer) == result
    model = Model()
    model.tokenizer = tokenizer
    assert perplexity(model, text) == result
    whole = perplexity(Model(), text, tokenizer=tokenizer, prefix_token_id=256)
    assert whole["bytes"] == len(text.encode())
    # Special tokens cost nats and have no bytes.
    ended = perplexity(Model(), [*ids, 256], tokenizer=tokenizer)
    assert ended["bytes"] == result["bytes"] and ended["tokens"] == count + 1
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        perplexity(Model(), text)


class Uniform:
    """Every byte of text costs one bit, whatever the tokens are."""

    def __init__(self, byte_lengths: np.ndarray):
        self.config = Config()
        self.byte_lengths = byte_lengths

    def per_token_loss(self, input_ids: Any, labels: Any) -> np.ndarray:
        losses = np.zeros(input_ids.shape, np.float32)
        shifted = labels[:, 1:]
        losses[:, :-1] = np.where(shifted == -100, 0, self.byte_lengths[shifted] * math.log(2))
        return losses


def test_bits_per_byte_does_not_depend_on_the_tokens():
    text = "the cat sat on the mat, the cat sat on the other mat"
    for tokenizer in (byte_tokenizer(), train_bpe([text] * 4, 290)):
        model = Uniform(tokenizer.token_byte_lengths())
        for data in (text, tokenizer.encode(text)):
            result = perplexity(model, data, tokenizer=tokenizer)
            assert result["bits_per_byte_disjoint_16"] == pytest.approx(1.0, rel=1e-6)


def test_shards_are_read_window_by_window(tmp_path):
    tokenizer = byte_tokenizer()
    ids = tokens(101)
    paths = []
    for number, part in enumerate((ids[:60], ids[60:])):
        paths.append(tmp_path / f"{number}.bin")
        with ShardWriter(paths[-1], tokenizer.vocab_size, eos_token_id=256) as writer:
            writer.add_document(part, byte_count=len(part), character_count=len(part))
    shards = [open_shard(path) for path in paths]
    expected = perplexity(Model(), [shard.read(0, len(shard)) for shard in shards], tokenizer=tokenizer)
    assert perplexity(Model(), shards, tokenizer=tokenizer) == expected
    assert perplexity(Model(), BlockDataset(shards, 16), tokenizer=tokenizer) == expected
    prefixed = perplexity(Model(), shards, tokenizer=tokenizer, prefix_token_id=256, stride=5)
    assert prefixed["tokens"] == sum(len(shard) for shard in shards)


def test_only_one_batch_at_a_time_and_progress():
    model = Model()
    seen = []
    perplexity(model, tokens(100), batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert all(shape[0] <= 3 for shape in model.shapes) and len(model.shapes) == 3
    assert seen == [(45, 99), (90, 99), (99, 99)]


def test_refusals():
    model, ids = Model(), tokens(20)
    with pytest.raises(ConfigError, match="window=17 is more than the model sees at once; it has to be 16"):
        perplexity(model, ids, window=17)
    with pytest.raises(ConfigError, match="window must be at least 2"):
        perplexity(model, ids, window=1)
    for stride in (0, 16, -1):
        with pytest.raises(ConfigError, match=f"stride must be from 1 to 15 for a window of 16, got {stride}"):
            perplexity(model, ids, stride=stride)
    with pytest.raises(ConfigError, match="batch_size"):
        perplexity(model, ids, batch_size=0)
    for nothing in ([], [7], [[7], [8]]):
        with pytest.raises(DataError, match="nothing to predict"):
            perplexity(model, np.zeros(0, np.int32) if nothing == [] else nothing)
    with pytest.raises(DataError, match="expected text, integer token ids"):
        perplexity(model, np.zeros(5))


def test_a_hopeless_model_has_infinite_perplexity():
    class Hopeless(Model):
        def per_token_loss(self, input_ids: Any, labels: Any) -> np.ndarray:
            return np.where(labels == -100, 0, 1000).astype(np.float32)

    assert perplexity(Hopeless(), tokens(5))["perplexity_disjoint_16"] == math.inf
