"""Counts of (true class, predicted class), and the measures that follow from them.

Definitions and every degenerate case are scikit-learn's. Integers are counted, so any number of batches, in any order
and merged in any way, gives the same bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llmcore.errors import ConfigError, DataError
from llmcore.labels import IGNORE_INDEX

AVERAGES = (None, "macro", "micro", "weighted", "binary")


class UndefinedMetricWarning(UserWarning):
    """A measure is not defined on this data, and a value was put in its place."""


class PrecisionRecallF1(NamedTuple):
    """Floats for an average; arrays (classes,) for `average=None`, which alone has `support`: the rows of a class."""

    precision: Any
    recall: Any
    f1: Any
    support: Any


class ConfusionMatrix:
    """`update` with batches, `merge` what others have counted, then ask.

    Classes are integers or strings and need not be known beforehand: `classes` (K,) holds those seen, sorted, `matrix`
    (K, K) int64 the number of rows of class i that were taken for class j.
    """

    def __init__(self) -> None:
        self.classes: np.ndarray = np.empty(0, np.int64)
        self.matrix: np.ndarray = np.zeros((0, 0), np.int64)

    def update(self, predictions: Any, labels: Any) -> None:
        """Counts a batch. `labels`: any shape, integers or strings; -100 is not counted. `predictions`: classes of the
        same shape, or scores with one axis more, of which the greatest counts."""
        predicted, true = predicted_classes(predictions, labels)
        if true.dtype.kind != self.classes.dtype.kind and len(self.classes) and len(true):
            raise DataError(f"classes were {self.classes.dtype} so far, now they are {true.dtype}; use one kind")
        self._include(np.union1d(predicted, true))
        np.add.at(self.matrix, (np.searchsorted(self.classes, true), np.searchsorted(self.classes, predicted)), 1)

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds what `other` has counted."""
        self._include(other.classes)
        places = np.searchsorted(self.classes, other.classes)
        self.matrix[np.ix_(places, places)] += other.matrix

    def _include(self, classes: np.ndarray) -> None:
        if not len(self.classes):
            self.classes, self.matrix = classes, np.zeros((len(classes), len(classes)), np.int64)
            return
        known = np.union1d(self.classes, classes)
        if len(known) == len(self.classes):
            return
        places = np.searchsorted(known, self.classes)
        matrix = np.zeros((len(known), len(known)), np.int64)
        matrix[np.ix_(places, places)] = self.matrix
        self.classes, self.matrix = known, matrix

    @property
    def total(self) -> int:
        """Rows counted."""
        return int(self.matrix.sum())

    def accuracy(self) -> float:
        """The part of the rows whose class was found. Raises DataError where nothing was counted."""
        self._check_not_empty()
        return float(np.trace(self.matrix) / self.total)

    def matthews_correlation(self) -> float:
        """Matthews' correlation coefficient for any number of classes (Gorodkin 2004); 0 where it is not defined."""
        self._check_not_empty()
        true, predicted = self.matrix.sum(1, dtype=np.float64), self.matrix.sum(0, dtype=np.float64)
        total, correct = true.sum(), float(np.trace(self.matrix))
        spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
        return float((correct * total - true @ predicted) / np.sqrt(spread)) if spread else 0.0

    def precision_recall_f1(
        self,
        average: str | None = "macro",
        labels: Sequence[Any] | None = None,
        pos_label: Any = 1,
        zero_division: float | str = "warn",
    ) -> PrecisionRecallF1:
        """Of the rows taken for a class, how many belong to it; of those that belong, how many were found; the harmonic
        mean of the two.

        `average`: "macro" is the mean over the classes, "weighted" that weighted by their rows, "micro" counts all
        classes together, "binary" is the class `pos_label` of two, None gives each class. `labels`: the classes to look
        at, in this order (default: all that occur as true or predicted). `zero_division`: what stands for 0 / 0: 0, 1,
        or nan, which averages leave out; "warn" is 0 with an UndefinedMetricWarning. Raises ConfigError for another
        value, DataError where nothing was counted.
        """
        self._check_not_empty()
        if average not in AVERAGES:
            raise ConfigError(f"average must be one of {AVERAGES}, got {average!r}")
        substitute = _zero_division(zero_division)
        chosen = self._chosen(average, labels, pos_label)
        hits, predicted, true = self._counts(chosen)
        if average == "micro":
            hits, predicted, true = (counts.sum(keepdims=True) for counts in (hits, predicted, true))
        values = []
        for name, above, below in (
            ("precision", hits, predicted),
            ("recall", hits, true),
            ("F1", 2 * hits, true + predicted),
        ):
            undefined = below == 0
            values.append(np.where(undefined, substitute, above / np.where(undefined, 1, below)))
            if zero_division == "warn" and undefined.any():
                _warn(name, int(undefined.sum()), len(undefined))
        if average is None:
            return PrecisionRecallF1(*values, true)
        weights = true if average == "weighted" else None
        return PrecisionRecallF1(*(_mean(value, weights) for value in values), None)

    def _chosen(self, average: str | None, labels: Sequence[Any] | None, pos_label: Any) -> np.ndarray:
        if average != "binary":
            return self.classes if labels is None else np.asarray(labels)
        if len(self.classes) > 2:
            raise ConfigError(
                f"average='binary' is for two classes, there are {len(self.classes)}; choose macro, micro or weighted"
            )
        if len(self.classes) == 2 and pos_label not in self.classes:
            raise ConfigError(f"pos_label={pos_label!r} is none of the classes {self.classes.tolist()}")
        return np.asarray([pos_label])

    def _counts(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Right predictions, predictions and rows of each class in `chosen`; 0 for a class that does not occur."""
        places = {label: index for index, label in enumerate(self.classes.tolist())}
        rows = [places.get(label) for label in chosen.tolist()]
        counts = np.stack([np.diag(self.matrix), self.matrix.sum(0), self.matrix.sum(1)])
        taken = np.stack([np.zeros(3, np.int64) if row is None else counts[:, row] for row in rows], axis=1)
        return taken[0], taken[1], taken[2]

    def _check_not_empty(self) -> None:
        if not self.total:
            raise DataError("there are no labels to compare with: nothing was counted")


def predicted_classes(predictions: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """(rows,) predicted and true classes without the rows labelled -100. Raises DataError."""
    true, predicted = np.asarray(labels), np.asarray(predictions)
    if predicted.ndim == true.ndim + 1 and predicted.dtype.kind == "f":
        predicted = predicted.argmax(-1)
    if predicted.shape != true.shape:
        raise DataError(
            f"predictions must have the shape of the labels, {true.shape}, or one axis of scores more; got "
            f"{predicted.shape}"
        )
    for name, array in (("labels", true), ("predictions", predicted)):
        if array.dtype.kind == "f" and not (array == np.round(array)).all():
            raise DataError(
                f"{name} must be classes, got numbers with fractions; use the regression measures for those"
            )
    predicted, true = (a.astype(np.int64) if a.dtype.kind in "biuf" else a for a in (predicted, true))
    if predicted.dtype.kind != true.dtype.kind:
        raise DataError(f"predictions are {predicted.dtype} and labels {true.dtype}; give both as one kind")
    counted = true != IGNORE_INDEX if true.dtype.kind == "i" else np.ones(true.shape, bool)
    return predicted[counted], true[counted]


def _zero_division(value: float | str) -> float:
    if value == "warn":
        return 0.0
    if isinstance(value, str) or not (value in (0, 1) or math.isnan(value)):
        raise ConfigError(f'zero_division must be 0, 1, nan or "warn", got {value!r}')
    return float(value)


def _mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Without the undefined ones; plain where the weights are all 0, nan where nothing is defined."""
    defined = ~np.isnan(values)
    if not defined.any():
        return math.nan
    values = values[defined]
    if weights is None:
        return float(np.mean(values))
    weights = weights[defined]
    return float(np.average(values, weights=weights)) if weights.any() else float(np.mean(values))


def _warn(name: str, count: int, of: int) -> None:
    reason = {
        "precision": "that were never predicted",
        "recall": "that no row belongs to",
        "F1": "that neither occur nor were predicted",
    }[name]
    message = f"{name} is not defined for {count} of {of} classes, {reason}; it counts as 0 there (see zero_division)"
    warnings.warn(message, UndefinedMetricWarning, stacklevel=4)
