"""All measures of a classifier in one object, fed batch by batch; logits are never kept, a loss of each row is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmcore.errors import ConfigError, DataError
from llmcore.evaluation.confusion import ConfusionMatrix
from llmcore.evaluation.ranking import BinaryScores
from llmcore.labels import IGNORE_INDEX

_AVERAGES = ("macro", "micro", "weighted")


class ClassificationMetrics:
    """`update` with batches, `merge` what others have counted, `compute` the measures.

    Goes into a trainer as `compute_metrics=ClassificationMetrics()`, for classes of texts or of tokens.

    Args:
        pos_label: the class that the measures of two classes are about.
        zero_division: what stands for 0 / 0, see `ConfusionMatrix.precision_recall_f1`.
    """

    def __init__(self, pos_label: int = 1, zero_division: float | str = "warn") -> None:
        self.pos_label = pos_label
        self.zero_division = zero_division
        self.reset()

    def reset(self) -> None:
        """Forgets all rows."""
        self.confusion = ConfusionMatrix()
        self.scores = BinaryScores()
        self._losses: list[np.ndarray] = []
        self._num_classes: int | None = None

    def update(self, predictions: Any, labels: Any) -> None:
        """`labels`: any shape, -100 is not counted. `predictions`: logits with one axis more, or classes."""
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        self.confusion.update(predictions, labels)
        if predictions.dtype.kind != "f" or predictions.ndim != labels.ndim + 1:
            return
        self._num_classes = predictions.shape[-1]
        counted = labels != IGNORE_INDEX
        logits = predictions.astype(np.float64)[counted]  # (rows, classes)
        true = labels[counted].astype(np.int64)
        if len(true) and not 0 <= true.min() <= true.max() < self._num_classes:
            raise DataError(f"labels go from {true.min()} to {true.max()}, but there are {self._num_classes} classes")
        top = logits.max(-1)
        log_sums = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        self._losses.append(log_sums - np.take_along_axis(logits, true[:, None], axis=-1)[:, 0])
        if self._num_classes != 2:
            return
        if self.pos_label not in (0, 1):
            raise ConfigError(f"pos_label must be 0 or 1 for logits of two classes, got {self.pos_label!r}")
        difference = logits[:, self.pos_label] - logits[:, 1 - self.pos_label]
        # the softmax of two logits, in the form that cannot overflow
        self.scores.update(0.5 * (1 + np.tanh(difference / 2)), true == self.pos_label)

    def merge(self, other: ClassificationMetrics) -> None:
        """Adds what `other` has counted."""
        self.confusion.merge(other.confusion)
        self.scores.merge(other.scores)
        self._losses += other._losses
        self._num_classes = self._num_classes or other._num_classes

    def compute(self) -> dict[str, float]:
        """accuracy, mcc (Matthews' correlation), and precision_, recall_, f1_ with macro, micro and weighted.

        For two classes also precision, recall and f1 of `pos_label`. Where logits were given also log_loss (mean nats
        of the true class), and for two classes auroc, auprc, brier.
        """
        confusion = self.confusion
        values = {"accuracy": confusion.accuracy(), "mcc": confusion.matthews_correlation()}
        classes = self._num_classes or len(confusion.classes)
        if classes == 2 and set(confusion.classes.tolist()) <= {0, 1}:
            values |= self._precision_recall_f1("binary", "")
        for average in _AVERAGES:
            values |= self._precision_recall_f1(average, f"_{average}")
        if self._losses:
            losses = np.concatenate(self._losses)
            values["log_loss"] = math.fsum(losses) / len(losses)
        if self.scores.total:
            values["auroc"] = self.scores.roc_auc()
            values["auprc"] = self.scores.average_precision()
            values["brier"] = self.scores.brier()
        return values

    def _precision_recall_f1(self, average: str, suffix: str) -> dict[str, float]:
        result = self.confusion.precision_recall_f1(average, pos_label=self.pos_label, zero_division=self.zero_division)
        return {f"{name}{suffix}": getattr(result, name) for name in ("precision", "recall", "f1")}
