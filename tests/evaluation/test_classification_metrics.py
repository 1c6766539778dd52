"""Measures of classes against scikit-learn, on 1,000 random label sets with every kind of degeneracy."""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.exceptions import UndefinedMetricWarning as OracleWarning

from llmcore.errors import ConfigError, DataError
from llmcore.evaluation import BinaryScores, ClassificationMetrics, ConfusionMatrix, UndefinedMetricWarning

TOLERANCE = 1e-12


def label_set(number: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes; the number decides the kind: random ones, one class, a class never predicted, a
    class that never occurs, all wrong, a single row, names instead of integers."""
    random = np.random.default_rng(number)
    classes, rows = int(random.integers(1, 7)), int(random.integers(1, 60))
    true, predicted = random.integers(0, classes, (2, rows))
    kind = number % 8
    if kind == 1:
        true[:] = random.integers(0, classes)
    elif kind == 2:
        predicted[:] = random.integers(0, classes)
    elif kind == 3:
        predicted = true.copy()
    elif kind == 4:
        predicted = true + 1
    elif kind == 5:
        true, predicted = true[:1], predicted[:1]
    elif kind == 6:
        names = np.array(["cat", "dog", "bird", "a", "Zebra", "é", "x"])
        return names[true], names[predicted]
    elif kind == 7:
        true, predicted = 10 * true - 7, 10 * predicted - 7
    return true, predicted


def streamed(true: np.ndarray, predicted: np.ndarray, random: np.random.Generator) -> ConfusionMatrix:
    """The same rows through two counters in uneven batches, then merged."""
    halves = [ConfusionMatrix(), ConfusionMatrix()]
    cuts = np.sort(random.integers(0, len(true) + 1, 3))
    for place, (t, p) in enumerate(zip(np.split(true, cuts), np.split(predicted, cuts), strict=True)):
        halves[place % 2].update(p, t)
    halves[1].merge(halves[0])
    return halves[1]


def with_warnings(function, category):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = function()
    return value, any(issubclass(warning.category, category) for warning in caught)


def assert_same(ours, theirs, what) -> None:
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), rtol=0, atol=TOLERANCE, err_msg=what)


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_equal_to_scikit_learn_on_a_thousand_label_sets():
    degenerate = 0
    for number in range(1000):
        true, predicted = label_set(number)
        counted = streamed(true, predicted, np.random.default_rng(number))
        classes = np.union1d(true, predicted)
        matrix = oracle.confusion_matrix(true, predicted, labels=classes)
        assert_same(counted.matrix, matrix, f"matrix {number}")
        assert counted.classes.tolist() == classes.tolist()
        assert_same(counted.accuracy(), oracle.accuracy_score(true, predicted), f"accuracy {number}")
        assert_same(counted.matthews_correlation(), oracle.matthews_corrcoef(true, predicted), f"mcc {number}")
        zero_division = ("warn", 0, 1, math.nan)[number % 4]
        averages = [None, "macro", "micro", "weighted"]
        if set(classes.tolist()) <= {0, 1}:
            averages.append("binary")
        some = classes[::2] if number % 3 == 0 else None
        for average in averages:
            labels = None if average == "binary" else some
            settings = dict(average=average, labels=labels, zero_division=zero_division)
            ours, warned = with_warnings(partial(counted.precision_recall_f1, **settings), UndefinedMetricWarning)
            theirs, expected = with_warnings(
                partial(oracle.precision_recall_fscore_support, true, predicted, **settings), OracleWarning
            )
            assert warned == expected, (number, average)
            degenerate += expected
            for mine, its in zip(ours, theirs, strict=True):
                if its is not None:
                    assert_same(mine, its, f"{average} {number} {zero_division}")
    assert degenerate > 200  # the policy was at stake


def test_classes_that_do_not_occur_can_be_asked_for():
    true, predicted = np.array([1, 2, 2]), np.array([2, 2, 1])
    counted = streamed(true, predicted, np.random.default_rng(0))
    for average in (None, "macro", "micro", "weighted"):
        ours = counted.precision_recall_f1(average, [9, 2, 0], zero_division=1)
        theirs = oracle.precision_recall_fscore_support(
            true, predicted, labels=[9, 2, 0], average=average, zero_division=1
        )
        for mine, its in zip(ours[:3], theirs[:3], strict=True):
            assert_same(mine, its, str(average))


def test_areas_and_brier_on_a_thousand_score_sets():
    for number in range(1000):
        random = np.random.default_rng(number)
        rows = int(random.integers(1, 80))
        true, scores = random.integers(0, 2, rows), random.random(rows)
        if number % 4 == 1:
            scores = np.round(scores, 1)  # ties
        elif number % 4 == 2:
            true[:] = number % 8 == 2  # one class
        elif number % 4 == 3:
            scores = np.where(true, 0.5 + scores / 2, scores / 2)  # separated
        parts = [BinaryScores(), BinaryScores()]
        cut = int(random.integers(0, rows + 1))
        for part, t, s in zip(parts, np.split(true, [cut]), np.split(scores, [cut]), strict=True):
            part.update(s, t)
        parts[0].merge(parts[1])
        brier = partial(oracle.brier_score_loss, labels=[0, 1], pos_label=1)
        for name, mine, its in (
            ("auroc", parts[0].roc_auc, oracle.roc_auc_score),
            ("auprc", parts[0].average_precision, oracle.average_precision_score),
            ("brier", parts[0].brier, brier),
        ):
            ours, warned = with_warnings(mine, UndefinedMetricWarning)
            theirs, expected = with_warnings(partial(its, true, scores), UserWarning)
            assert_same(ours, theirs, f"{name} {number}")
            assert warned == expected, (name, number)


def test_the_object_for_trainers():
    """Logits of two classes, -100, batches of any size: the same bits; names of the measures."""
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((40, 3, 2)).astype(np.float32), random.integers(0, 2, (40, 3))
    labels[random.random((40, 3)) < 0.3] = -100
    results = []
    for size in (1, 7, 40):
        metric = ClassificationMetrics()
        for start in range(0, 40, size):
            metric.update(logits[start : start + size], labels[start : start + size])
        results.append(metric.compute())
    assert results[0] == results[1] == results[2]
    counted = labels != -100
    true, predicted = labels[counted], logits.argmax(-1)[counted]
    exact = logits[counted].astype(np.float64)
    probability = 1 / (1 + np.exp(exact[:, 0] - exact[:, 1]))
    expected = {
        "accuracy": oracle.accuracy_score(true, predicted),
        "mcc": oracle.matthews_corrcoef(true, predicted),
        "auroc": oracle.roc_auc_score(true, probability),
        "auprc": oracle.average_precision_score(true, probability),
        "brier": oracle.brier_score_loss(true, probability),
        "log_loss": oracle.log_loss(true, np.stack([1 - probability, probability], axis=1)),
        "precision": oracle.precision_score(true, predicted),
        "recall": oracle.recall_score(true, predicted),
        "f1": oracle.f1_score(true, predicted),
    }
    for average in ("macro", "micro", "weighted"):
        values = oracle.precision_recall_fscore_support(true, predicted, average=average)
        expected |= dict(zip((f"precision_{average}", f"recall_{average}", f"f1_{average}"), values[:3], strict=True))
    assert results[0].keys() == expected.keys()
    for name, value in expected.items():
        assert_same(results[0][name], value, name)
    with pytest.raises(DataError, match="labels go from 0 to 2, but there are 2 classes"):
        metric.update(logits[0], [0, 2, 1])
    metric.reset()
    with pytest.raises(DataError, match="nothing was counted"):
        metric.compute()


def test_refusals():
    counted = ConfusionMatrix()
    with pytest.raises(DataError, match=r"must have the shape of the labels, \(3,\), or one axis of scores more"):
        counted.update([0, 1], [0, 1, 1])
    with pytest.raises(DataError, match="regression measures"):
        counted.update([0.5, 1.5], [0, 1])
    with pytest.raises(DataError, match="give both as one kind"):
        counted.update(["a"], [1])
    counted.update([0, 1, 2], [0, 1, 1])
    with pytest.raises(DataError, match="use one kind"):
        counted.update(["a"], ["b"])
    with pytest.raises(ConfigError, match="there are 3; choose macro"):
        counted.precision_recall_f1("binary")
    with pytest.raises(ConfigError, match="average must be one of"):
        counted.precision_recall_f1("median")
    with pytest.raises(ConfigError, match="zero_division must be"):
        counted.precision_recall_f1(zero_division=0.5)
    two = ConfusionMatrix()
    two.update([3, 4], [3, 3])
    with pytest.raises(ConfigError, match=r"pos_label=1 is none of the classes \[3, 4\]"):
        two.precision_recall_f1("binary")
    scores = BinaryScores()
    scores.update([2.0, 1.0], [True, False])
    assert scores.roc_auc() == 1.0
    with pytest.raises(DataError, match="needs probabilities"):
        scores.brier()
    with pytest.raises(DataError, match="not a finite number"):
        scores.update([math.nan], [1])
