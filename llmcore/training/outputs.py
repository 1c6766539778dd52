"""What the trainer returns, under transformers' names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from llmcore.errors import LlmcoreError


class TrainOutput(NamedTuple):
    """Result of `Trainer.train`: updates made, mean loss over them, metrics."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class PredictionOutput(NamedTuple):
    """Result of `Trainer.predict`."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


@dataclasses.dataclass
class EvalPrediction:
    """What `compute_metrics` gets; unpacks into `predictions, label_ids`.

    `predictions` are the logits for a classifier, (N, classes) or for tokens (N, T, classes), and the ids of the
    greatest logit for a language model (N, T), unless `preprocess_logits_for_metrics` made something else.
    """

    predictions: np.ndarray
    label_ids: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.predictions, self.label_ids))

    def __getitem__(self, index: int) -> np.ndarray:
        return (self.predictions, self.label_ids)[index]


@dataclasses.dataclass(frozen=True)
class StepResult:
    """One update, as `for step in trainer` gives it.

    `loss` and `grad_norm` are those of this update (not finite if it was skipped), `tokens_per_second` counts input
    tokens.
    """

    global_step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    skipped: bool = False


class NonFiniteError(LlmcoreError, ArithmeticError):
    """Training stopped because loss or gradients were not finite for several updates in a row.

    No such update was applied and none was saved. `exit_code` is what a command line should return.
    """

    exit_code = 3

    def __init__(self, message: str, *, step: int, loss: float, grad_norm: float) -> None:
        super().__init__(message)
        self.step, self.loss, self.grad_norm = step, loss, grad_norm
