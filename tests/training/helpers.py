"""A language model small enough that a test trains it in a moment: the next token depends on the current one alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from llmcore import _core, nn
from llmcore import functional as F
from llmcore.autograd import Context, Function, Generator, tensor
from llmcore.models.inputs import next_token_targets
from llmcore.models.outputs import CausalLMOutput

VOCABULARY = 11


class _CrossEntropy(Function):
    """Sum over rows of the negative log-likelihood, divided by `items`: NumPy, float64 inside."""

    @staticmethod
    def forward(ctx: Context, logits: _core.Tensor, targets: np.ndarray, items: int) -> _core.Tensor:
        scores = logits.numpy().astype(np.float64)
        scores = scores - scores.max(-1, keepdims=True)
        log_probabilities = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        rows = np.flatnonzero(targets != -100)
        gradient = np.zeros_like(scores)
        gradient[rows] = np.exp(log_probabilities[rows])
        gradient[rows, targets[rows]] -= 1.0
        ctx.save(gradient / items)
        loss = -log_probabilities[rows, targets[rows]].sum() / items
        return _core.from_numpy(np.array(loss, np.float32))

    @staticmethod
    def backward(ctx: Context, dloss: _core.Tensor) -> Any:
        (gradient,) = ctx.saved
        with np.errstate(invalid="ignore"):  # tests send infinite gradients on purpose
            return _core.from_numpy((gradient * dloss.item()).astype(np.float32)), None, None


@dataclasses.dataclass
class BigramConfig:
    n_positions: int = 64
    vocab_size: int = VOCABULARY

    def to_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)


class BigramForCausalLM(nn.Module):
    """logits = table[token], with noise from a generator where `dropout` is above 0."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        values = np.random.default_rng(seed).standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32) * 0.1
        self.table = nn.Parameter(_core.from_numpy(values))
        self.bias = nn.Parameter(_core.zeros((VOCABULARY,)))
        self.generator = Generator(seed)
        self.dropout = dropout
        self.config = BigramConfig()

    def __call__(
        self, input_ids: Any, labels: Any = None, num_items_in_batch: int | None = None, return_logits: bool = False
    ) -> CausalLMOutput:
        ids = np.asarray(input_ids)
        one_hot = np.eye(VOCABULARY, dtype=np.float32)[ids.reshape(-1)]  # (N, V)
        if self.training and self.dropout:
            one_hot = one_hot * self._mask(len(one_hot))[:, None]
        logits = F.linear(tensor(one_hot), self.table, self.bias, transpose_weight=False)  # (N, V)
        loss = None
        if labels is not None:
            targets = next_token_targets(labels, ids.shape).numpy()
            items = num_items_in_batch or max(1, int((targets != -100).sum()))
            loss = _CrossEntropy.apply(logits, targets, items)
        if labels is None or return_logits:
            return CausalLMOutput(loss, F.view(logits, (*ids.shape, VOCABULARY)))
        return CausalLMOutput(loss, None)

    def _mask(self, rows: int) -> np.ndarray:
        random = np.random.default_rng([self.generator.seed, self.generator.next_offset()])
        return (random.random(rows) >= self.dropout).astype(np.float32) / (1 - self.dropout)

    def save_pretrained(self, folder: Any) -> None:
        raise NotImplementedError  # nothing here needs it


def weights_of(model: Any) -> dict[str, np.ndarray]:
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def assert_equal_weights(first: Any, second: Any) -> None:
    """Bit for bit."""
    for (name, a), (other, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert name == other
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)


def make_rows(count: int = 24, length: int = 9, seed: int = 0, ragged: bool = False) -> list[dict[str, list[int]]]:
    """Rows in which token t + 1 mostly follows from token t, so there is something to learn."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        ids = [int(random.integers(VOCABULARY))]
        for _ in range(length - 1):
            ids.append((3 * ids[-1] + 1) % VOCABULARY if random.random() < 0.8 else int(random.integers(VOCABULARY)))
        labels = list(ids)
        if ragged:
            labels[: index % (length - 2)] = [-100] * (index % (length - 2))
        rows.append({"input_ids": ids, "labels": labels})
    return rows
