"""All measures of a classifier in one object, fed batch by batch; logits are never kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmcore.errors import ConfigError
from llmcore.evaluation.confusion import ConfusionMatrix
from llmcore.evaluation.ranking import BinaryScores

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
        self._num_classes: int | None = None

    def update(self, predictions: Any, labels: Any) -> None:
        """`labels`: any shape, -100 is not counted. `predictions`: logits with one axis more, or classes."""
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        self.confusion.update(predictions, labels)
        if predictions.dtype.kind != "f" or predictions.ndim != labels.ndim + 1:
            return
        self._num_classes = predictions.shape[-1]
        if self._num_classes != 2:
            return
        if self.pos_label not in (0, 1):
            raise ConfigError(f"pos_label must be 0 or 1 for logits of two classes, got {self.pos_label!r}")
        counted = labels != -100
        logits = predictions.astype(np.float64)[counted]  # (rows, 2)
        difference = logits[:, self.pos_label] - logits[:, 1 - self.pos_label]
        # the softmax of two logits, in the form that cannot overflow
        self.scores.update(0.5 * (1 + np.tanh(difference / 2)), labels[counted] == self.pos_label)

    def merge(self, other: ClassificationMetrics) -> None:
        """Adds what `other` has counted."""
        self.confusion.merge(other.confusion)
        self.scores.merge(other.scores)
        self._num_classes = self._num_classes or other._num_classes

    def compute(self) -> dict[str, float]:
        """accuracy, mcc (Matthews' correlation), and precision_, recall_, f1_ with macro, micro and weighted.

        For two classes also precision, recall and f1 of `pos_label`; where logits were given auroc, auprc, brier.
        """
        confusion = self.confusion
        values = {"accuracy": confusion.accuracy(), "mcc": confusion.matthews_correlation()}
        classes = self._num_classes or len(confusion.classes)
        if classes == 2 and set(confusion.classes.tolist()) <= {0, 1}:
            values |= self._precision_recall_f1("binary", "")
        for average in _AVERAGES:
            values |= self._precision_recall_f1(average, f"_{average}")
        if self.scores.total:
            values["auroc"] = self.scores.roc_auc()
            values["auprc"] = self.scores.average_precision()
            values["brier"] = self.scores.brier()
        return values

    def _precision_recall_f1(self, average: str, suffix: str) -> dict[str, float]:
        result = self.confusion.precision_recall_f1(average, pos_label=self.pos_label, zero_division=self.zero_division)
        return {f"{name}{suffix}": getattr(result, name) for name in ("precision", "recall", "f1")}
