"""Measures of numbers against scikit-learn and SciPy."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from llmcore.errors import DataError
from llmcore.evaluation import RegressionMetrics, UndefinedMetricWarning


def compute(predictions, labels, cuts=()) -> tuple[dict[str, float], bool]:
    parts = [RegressionMetrics(), RegressionMetrics()]
    for number, (p, t) in enumerate(zip(np.split(predictions, cuts), np.split(labels, cuts), strict=True)):
        parts[min(number, 1)].update(p, t)
    parts[0].merge(parts[1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = parts[0].compute()
    return result, any(issubclass(warning.category, UndefinedMetricWarning) for warning in caught)


def test_equal_to_scikit_learn_and_scipy_on_a_thousand_sets():
    undefined = 0
    for number in range(1000):
        random = np.random.default_rng(number)
        rows = int(random.integers(1, 70))
        true = random.standard_normal(rows)
        predicted = true + random.standard_normal(rows)
        if number % 5 == 1:
            true, predicted = np.round(true), np.round(predicted)  # ties
        elif number % 5 == 2:
            predicted = np.full(rows, 0.3)
        elif number % 5 == 3:
            true = np.full(rows, -2.0)
        elif number % 10 == 4:
            predicted = true.copy()
        result, warned = compute(predicted, true, np.sort(random.integers(0, rows + 1, 3)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = {
                "mse": oracle.mean_squared_error(true, predicted),
                "rmse": oracle.root_mean_squared_error(true, predicted),
                "mae": oracle.mean_absolute_error(true, predicted),
                "r2": oracle.r2_score(true, predicted),
                "pearson": stats.pearsonr(true, predicted).statistic if rows > 1 else math.nan,
                "spearman": stats.spearmanr(true, predicted).statistic if rows > 1 else math.nan,
            }
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            assert result[name] == pytest.approx(value, abs=1e-12, rel=1e-12, nan_ok=True), (name, number)
        assert warned == any(map(math.isnan, expected.values()))
        undefined += warned
    assert undefined > 200


def test_batches_make_no_difference():
    random = np.random.default_rng(0)
    predicted, true = random.standard_normal((2, 1000)).astype(np.float32)
    whole = compute(predicted, true)
    assert whole == compute(predicted, true, range(1, 1000)) == compute(predicted[:, None], true, [500])


def test_refusals():
    metric = RegressionMetrics()
    with pytest.raises(DataError, match="nothing was collected"):
        metric.compute()
    with pytest.raises(DataError, match=r"one predicted and one true number, got \(2, 2\) and \(4,\)"):
        metric.update(np.zeros((2, 2)), np.zeros(4))
    with pytest.raises(DataError, match="not finite"):
        metric.update([1.0, math.inf], [1.0, 2.0])
    metric.update([1.0], [2.0])
    metric.reset()
    metric.update([1.0, 2.0], [1.0, 2.0])
    assert metric.compute()["mse"] == 0.0
