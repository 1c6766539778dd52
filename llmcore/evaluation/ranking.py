"""How well scores separate two classes: areas under curves, and the Brier score.

One score per row is kept (16 bytes with its label): ranks cannot be had from less. Definitions and degenerate cases
are scikit-learn's.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from llmcore.errors import DataError
from llmcore.evaluation.confusion import UndefinedMetricWarning


class BinaryScores:
    """`update` with batches, `merge` what others have collected, then ask."""

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._positive: list[np.ndarray] = []

    def update(self, scores: Any, positive: Any) -> None:
        """`scores` (rows,): greater for rows that rather belong to the positive class. `positive` (rows,): whether
        they do, as booleans or 0 and 1."""
        score, truth = np.asarray(scores, np.float64).reshape(-1), np.asarray(positive).reshape(-1)
        if score.shape != truth.shape:
            raise DataError(f"{len(score)} scores, but {len(truth)} labels: each row needs one of both")
        if not np.isin(truth, (0, 1)).all():
            raise DataError("labels must be booleans, or 0 and 1: whether a row belongs to the positive class")
        if not np.isfinite(score).all():
            raise DataError("a score is not a finite number")
        self._scores.append(score.copy())
        self._positive.append(truth.astype(bool))

    def merge(self, other: BinaryScores) -> None:
        """Adds what `other` has collected."""
        self._scores += other._scores
        self._positive += other._positive

    @property
    def total(self) -> int:
        """Rows collected."""
        return sum(map(len, self._scores))

    def roc_auc(self) -> float:
        """The chance that a positive row has a greater score than a negative one, ties counted half; nan with an
        UndefinedMetricWarning where only one class occurs."""
        positives, counts = self._at_thresholds()
        negatives = counts - positives
        if not positives.sum() or not negatives.sum():
            _warn("the area under the ROC curve is not defined where only one class occurs")
            return math.nan
        below = np.cumsum(negatives[::-1])[::-1] - negatives  # negative rows with a smaller score
        won = float(positives @ below) + 0.5 * float(positives @ negatives)
        return won / (float(positives.sum()) * float(negatives.sum()))

    def average_precision(self) -> float:
        """The area under the precision-recall curve as a sum of steps; 0 with an UndefinedMetricWarning where no row is
        positive."""
        positives, counts = self._at_thresholds()
        if not positives.sum():
            _warn("average precision is not defined where no row is positive; it counts as 0")
            return 0.0
        precision = np.cumsum(positives) / np.cumsum(counts)
        return float(np.sum(precision * positives) / positives.sum())

    def brier(self) -> float:
        """The mean squared difference between the scores, which have to be probabilities, and 0 or 1."""
        scores, positive = self._all()
        if scores.min() < 0 or scores.max() > 1:
            raise DataError(f"the Brier score needs probabilities, got {scores.min():g} to {scores.max():g}")
        return float(np.mean((scores - positive) ** 2))

    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.total:
            raise DataError("there are no labels to compare with: nothing was collected")
        return np.concatenate(self._scores), np.concatenate(self._positive)

    def _at_thresholds(self) -> tuple[np.ndarray, np.ndarray]:
        """For each distinct score, greatest first: positive rows with it, and rows with it."""
        scores, positive = self._all()
        _, place = np.unique(-scores, return_inverse=True)
        counts = np.bincount(place)
        return np.bincount(place, weights=positive).astype(np.int64), counts


def _warn(message: str) -> None:
    warnings.warn(message, UndefinedMetricWarning, stacklevel=3)
