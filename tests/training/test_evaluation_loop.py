"""Evaluation: exact means, perplexity, bits per byte, compute_metrics in its three forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmcore import functional as F
from llmcore.errors import ConfigError
from llmcore.models.inputs import next_token_targets
from llmcore.training.arguments import TrainingArguments
from llmcore.training.outputs import EvalPrediction
from llmcore.training.trainer import Trainer

from .helpers import VOCABULARY, BigramForCausalLM, make_rows

ROWS = make_rows(count=10, ragged=True, seed=3)


def make_trainer(tmp_path, model=None, settings=None, **keywords):
    settings = {"per_device_eval_batch_size": 4, **(settings or {})}
    return Trainer(model or BigramForCausalLM(), TrainingArguments(str(tmp_path), **settings), **keywords)


def token_losses(model) -> np.ndarray:
    """Negative log-likelihoods of all trained tokens of ROWS, in float64."""
    logits = model.table.numpy().astype(np.float64) + model.bias.numpy()
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = []
    for row in ROWS:
        for token, label in zip(row["input_ids"], row["labels"][1:], strict=False):
            if label != -100:
                losses.append(-log_probabilities[token, label])
    return np.array(losses)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
def test_loss_is_the_mean_over_tokens_for_any_batch_size(tmp_path, batch_size):
    trainer = make_trainer(tmp_path, settings={"per_device_eval_batch_size": batch_size}, eval_dataset=ROWS)
    metrics = trainer.evaluate()
    expected = token_losses(trainer.model).mean()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)
    assert {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"} < set(metrics)
    assert "eval_bits_per_byte" not in metrics
    assert trainer.model.training  # as before
    assert trainer.state.log_history[-1]["eval_loss"] == metrics["eval_loss"]


def test_per_token_loss_of_the_model_is_used_if_there_is_one(tmp_path):
    class Model(BigramForCausalLM):
        def per_token_loss(self, input_ids, labels):
            return np.where(np.asarray(labels)[:, 1:] == -100, 0.0, 2.0).astype(np.float32)

    assert make_trainer(tmp_path, type("ForCausalLM", (Model,), {})()).evaluate(ROWS)["eval_loss"] == 2.0


def test_bits_per_byte_come_from_the_tokenizer(tmp_path):
    lengths = np.arange(VOCABULARY, dtype=np.int32)

    class Bytes:
        def token_byte_lengths(self):
            return lengths

        def pad(self, rows, **options):
            return {"input_ids": np.array([row["input_ids"] for row in rows])}

        padding_side = "right"

    trainer = make_trainer(tmp_path, processing_class=Bytes())
    metrics = trainer.evaluate(ROWS)
    trained = [label for row in ROWS for label in row["labels"][1:] if label != -100]
    expected = token_losses(trainer.model).sum() / math.log(2) / lengths[trained].sum()
    assert metrics["eval_bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def accuracy(prediction):
    predictions, labels = prediction
    assert predictions.shape == labels.shape == (10, 9)  # ids of the greatest logit, not logits
    right = predictions[:, :-1] == labels[:, 1:]
    return {"accuracy": right[labels[:, 1:] != -100].mean()}


class StreamingAccuracy:
    def __init__(self):
        self.right = self.count = self.batches = 0

    def update(self, predictions, labels):
        trained = labels[:, 1:] != -100
        self.right += (predictions[:, :-1] == labels[:, 1:])[trained].sum()
        self.count += trained.sum()
        self.batches += 1

    def compute(self):
        return {"accuracy": self.right / self.count, "batches": self.batches}


def test_three_forms_of_compute_metrics_agree(tmp_path):
    state = StreamingAccuracy()

    def batchwise(prediction: EvalPrediction, compute_result: bool):
        state.update(prediction.predictions, prediction.label_ids)
        return state.compute() if compute_result else None

    whole = make_trainer(tmp_path, compute_metrics=accuracy).evaluate(ROWS)
    streaming = make_trainer(tmp_path, compute_metrics=StreamingAccuracy()).evaluate(ROWS)
    batched = make_trainer(tmp_path, settings={"batch_eval_metrics": True}, compute_metrics=batchwise).evaluate(ROWS)
    assert whole["eval_accuracy"] == streaming["eval_accuracy"] == batched["eval_accuracy"]
    assert isinstance(whole["eval_accuracy"], float)
    assert streaming["eval_batches"] == batched["eval_batches"] == 3
    assert whole["eval_loss"] == streaming["eval_loss"]
    with pytest.raises(ConfigError, match="compute_metrics\\(prediction, compute_result\\)"):
        make_trainer(tmp_path, settings={"batch_eval_metrics": True}, compute_metrics=accuracy).evaluate(ROWS)
    only_loss = make_trainer(tmp_path, settings={"prediction_loss_only": True}, compute_metrics=accuracy)
    assert "eval_accuracy" not in only_loss.evaluate(ROWS)


def test_preprocess_logits(tmp_path):
    trainer = make_trainer(
        tmp_path,
        compute_metrics=lambda prediction: {"width": prediction.predictions.shape[-1]},
        preprocess_logits_for_metrics=lambda logits, labels: logits[..., :5],
    )
    assert trainer.evaluate(ROWS)["eval_width"] == 5


def test_dict_of_datasets(tmp_path):
    metrics = make_trainer(tmp_path, eval_dataset={"a": ROWS, "b": make_rows(count=3)}).evaluate()
    assert metrics["eval_a_loss"] != metrics["eval_b_loss"]


def test_predict(tmp_path):
    trainer = make_trainer(tmp_path, compute_metrics=accuracy)
    output = trainer.predict(ROWS)
    logits = trainer.model.table.numpy() + trainer.model.bias.numpy()
    expected = [[int(logits[token].argmax()) for token in row["input_ids"]] for row in ROWS]
    assert output.predictions.tolist() == expected
    assert output.label_ids.tolist() == [row["labels"] for row in ROWS]
    assert output.metrics["test_loss"] > 0 and "test_accuracy" in output.metrics
    unlabelled = trainer.predict([{"input_ids": row["input_ids"]} for row in ROWS])
    assert unlabelled.label_ids is None and "test_loss" not in unlabelled.metrics


def test_predictions_of_different_lengths_are_filled(tmp_path):
    rows = [{"input_ids": [1] * length, "labels": [1] * length} for length in (3, 5)]
    output = make_trainer(tmp_path, settings={"per_device_eval_batch_size": 1}).predict(rows)
    assert output.label_ids.tolist() == [[1, 1, 1, -100, -100], [1, 1, 1, 1, 1]]


def test_evaluating_nothing_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="give eval_dataset"):
        make_trainer(tmp_path).evaluate()


def test_own_objective_is_evaluated_too(tmp_path):
    """Weighted twice as much, by function and by subclass: so is the evaluation, and it claims no perplexity."""

    def doubled(outputs, labels, num_items_in_batch=None):
        targets = next_token_targets(labels, np.shape(labels))
        return F.cross_entropy(F.view(outputs.logits, (-1, VOCABULARY)), targets, num_items=num_items_in_batch) * 2.0

    class Doubled(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(inputs["input_ids"])
            loss = doubled(outputs, inputs["labels"], num_items_in_batch)
            return (loss, outputs) if return_outputs else loss

    plain = make_trainer(tmp_path).evaluate(ROWS)["eval_loss"]
    args = TrainingArguments(str(tmp_path), per_device_eval_batch_size=5)
    for trainer in (
        Trainer(BigramForCausalLM(), args, compute_loss_func=doubled),
        Doubled(BigramForCausalLM(), args),
        Doubled(BigramForCausalLM(), args, compute_metrics=accuracy),
    ):
        metrics = trainer.evaluate(ROWS)
        assert metrics["eval_loss"] == pytest.approx(2 * plain, rel=1e-5) and "eval_perplexity" not in metrics
    assert "eval_accuracy" in metrics
