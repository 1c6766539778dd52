"""How far predicted numbers are from the true ones, and how well they go together.

Both numbers of a row are kept (16 bytes), so that the result does not depend on how the rows were cut into batches.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from llmcore.errors import DataError
from llmcore.evaluation.confusion import UndefinedMetricWarning


class RegressionMetrics:
    """`update` with batches, `merge` what others have collected, `compute` the measures.

    Goes into a trainer as `compute_metrics=RegressionMetrics()`.
    """

    def __init__(self) -> None:
        self._predictions: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def reset(self) -> None:
        """Forgets all rows."""
        self._predictions, self._labels = [], []

    def update(self, predictions: Any, labels: Any) -> None:
        """`predictions` and `labels`: (rows,) or (rows, 1) finite numbers. Raises DataError."""
        predicted = np.array(predictions, np.float64)
        true = np.array(labels, np.float64)
        if predicted.size != true.size or max(predicted.ndim, true.ndim) == 2 and predicted.shape[-1:] != (1,):
            raise DataError(f"each row needs one predicted and one true number, got {predicted.shape} and {true.shape}")
        if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
            raise DataError("a predicted or true number is not finite")
        self._predictions.append(predicted.reshape(-1))
        self._labels.append(true.reshape(-1))

    def merge(self, other: RegressionMetrics) -> None:
        """Adds the rows of `other`, after its own."""
        self._predictions += other._predictions
        self._labels += other._labels

    def compute(self) -> dict[str, float]:
        """mse, rmse, mae (mean squared error, its root, mean absolute error), r2 (the explained part of the variance),
        pearson and spearman (correlation of the numbers and of their ranks).

        Where a correlation or r2 is not defined (fewer than two rows, numbers all alike) it is nan, with an
        UndefinedMetricWarning. Raises DataError where there are no rows.
        """
        if not sum(map(len, self._labels)):
            raise DataError("there are no labels to compare with: nothing was collected")
        predicted, true = np.concatenate(self._predictions), np.concatenate(self._labels)
        mse = float(np.mean((true - predicted) ** 2))
        return {
            "mse": mse,
            "rmse": math.sqrt(mse),
            "mae": float(np.mean(np.abs(true - predicted))),
            "r2": _r2(predicted, true),
            "pearson": _correlation("pearson", predicted, true),
            "spearman": _correlation("spearman", _ranks(predicted), _ranks(true)),
        }


def _r2(predicted: np.ndarray, true: np.ndarray) -> float:
    if len(true) < 2:
        _warn("r2 is not defined for fewer than two rows")
        return math.nan
    residual, spread = np.sum((true - predicted) ** 2), np.sum((true - true.mean()) ** 2)
    if not spread:  # as scikit-learn: numbers all alike are explained in full or not at all
        return 1.0 if not residual else 0.0
    return float(1 - residual / spread)


def _correlation(name: str, x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        _warn(f"the {name} correlation is not defined for fewer than two rows or numbers that are all alike")
        return math.nan
    dx, dy = x - x.mean(), y - y.mean()
    # normalised first, so that squares of large or tiny numbers neither overflow nor vanish
    dx, dy = dx / np.linalg.norm(dx), dy / np.linalg.norm(dy)
    return float(np.clip(dx @ dy, -1.0, 1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal numbers share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[place]


def _warn(message: str) -> None:
    warnings.warn(message, UndefinedMetricWarning, stacklevel=4)
