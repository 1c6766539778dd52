"""A small language model in NumPy with the interface that generation needs: every logit depends on all tokens that the
row may see and on their positions, so a wrong start, position or cache shows in the text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from llmcore import _core
from llmcore.autograd import Tensor
from llmcore.generation import GenerationMixin


@dataclasses.dataclass
class ToyConfig:
    vocab_size: int = 257
    n_positions: int = 64
    bos_token_id: int | None = None
    eos_token_id: int | None = 256
    pad_token_id: int | None = None


class ToyCache:
    def __init__(self, batch_size: int, capacity: int):
        self.ids = np.zeros((batch_size, capacity), np.int64)
        self.length = 0
        self.capacity = capacity


class ToyModel(GenerationMixin):
    """`logits[t] = readout @ sum_j 0.8^(t-j) * (token_table[id_j] + position_table[j - start])`."""

    def __init__(self, vocab_size: int = 257, n_positions: int = 64, seed: int = 0, scale: float = 3.0):
        self.config = ToyConfig(vocab_size, n_positions, eos_token_id=vocab_size - 1)
        self.generation_config = None
        self.tokenizer = None
        self.training = False
        self.calls: list[tuple[int, int]] = []
        random = np.random.default_rng(seed)
        self.token_table = random.standard_normal((vocab_size, 16))
        self.position_table = random.standard_normal((n_positions, 16))
        self.readout = random.standard_normal((16, vocab_size)) * scale
        self.readout[:, vocab_size - 1] = 0  # the end of text is never the likeliest token of a whole distribution

    def train(self) -> None:
        self.training = True

    def eval(self) -> None:
        self.training = False

    def new_cache(self, batch_size: int, capacity: int) -> ToyCache:
        assert capacity <= self.config.n_positions, "GPT-2 has no more columns than positions"
        return ToyCache(batch_size, capacity)

    def __call__(self, input_ids: Any, past: ToyCache, starts: np.ndarray, logits_to_keep: int) -> Any:
        assert not self.training, "generation runs without dropout"
        B, T = input_ids.shape
        self.calls.append((B, T))
        assert past.length + T <= past.capacity
        past.ids[:, past.length : past.length + T] = input_ids
        logits = np.zeros((B, T, self.config.vocab_size))
        for b in range(B):
            for t in range(T):
                end = past.length + t + 1
                seen = past.ids[b, starts[b] : end]
                weights = 0.8 ** np.arange(len(seen))[::-1]
                states = self.token_table[seen] + self.position_table[: len(seen)]
                logits[b, t] = (weights @ states) @ self.readout
        past.length += T
        logits = logits[:, -logits_to_keep:]
        return dataclasses.make_dataclass("Output", ["logits"])(Tensor(_core.from_numpy(logits)))


def greedy_reference(model: ToyModel, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding written out: no cache, no batch, no padding."""
    ids = list(prompt)
    for _ in range(count):
        weights = 0.8 ** np.arange(len(ids))[::-1]
        logits = (weights @ (model.token_table[ids] + model.position_table[: len(ids)])) @ model.readout
        ids.append(int(np.argmax(logits)))
    return ids
