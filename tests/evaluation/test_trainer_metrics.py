"""The measures as a trainer's `compute_metrics`."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

import llmcore
from llmcore.evaluation import ClassificationMetrics, RegressionMetrics
from llmcore.training.arguments import TrainingArguments
from llmcore.training.trainer import Trainer

from ..training.bert import REVIEWS, make_config, make_tokenizer


def evaluate(folder, metric, rows, **config):
    """The metrics of two evaluations in a row, and the predictions."""
    model = llmcore.BertForSequenceClassification(make_config(initializer_range=0.5, **config), seed=1)
    trainer = Trainer(
        *(model, TrainingArguments(str(folder), per_device_eval_batch_size=7)),
        eval_dataset=rows,
        processing_class=make_tokenizer(),
        compute_metrics=metric,
    )
    first, second = trainer.evaluate(), trainer.evaluate()
    predictions = trainer.predict(rows).predictions
    timeless = [{name: value for name, value in m.items() if "second" not in name} for m in (first, second)]
    for metrics in timeless:
        del metrics["eval_runtime"]
    assert timeless[0] == timeless[1]  # nothing is left of an earlier evaluation
    return timeless[0], predictions


def test_of_classes(tmp_path):
    metrics, logits = evaluate(tmp_path, ClassificationMetrics(), REVIEWS)
    labels, classes = [row["label"] for row in REVIEWS], logits.argmax(-1)
    assert 0 < classes.mean() < 1
    assert metrics["eval_f1"] == pytest.approx(oracle.f1_score(labels, classes), abs=1e-12)
    assert metrics["eval_accuracy"] == pytest.approx(oracle.accuracy_score(labels, classes), abs=1e-12)
    differences = logits[:, 1].astype(np.float64) - logits[:, 0]
    assert metrics["eval_auroc"] == pytest.approx(oracle.roc_auc_score(labels, differences), abs=1e-12)


def test_of_numbers(tmp_path):
    rows = [{"text": row["text"], "label": len(row["text"]) / 10} for row in REVIEWS]
    metrics, predictions = evaluate(tmp_path, RegressionMetrics(), rows, num_labels=1)
    labels = np.float32([row["label"] for row in rows])
    assert metrics["eval_mse"] == pytest.approx(oracle.mean_squared_error(labels, predictions), rel=1e-6)
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_mse"], rel=1e-5)
    assert {"eval_pearson", "eval_spearman", "eval_mae", "eval_r2"} <= metrics.keys()
