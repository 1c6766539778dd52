"""`evaluate` and `predict`, and the book-keeping of the best checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from llmcore.errors import ConfigError
from llmcore.training.evaluation_loop import EvaluationOptions, EvaluationResult, run_evaluation
from llmcore.training.outputs import PredictionOutput
from llmcore.training.trainer_step import TrainerStep


class StopRequested(Exception):
    """Ends an evaluation inside a training that a signal has asked to stop. Never leaves the trainer."""


class TrainerEvaluation(TrainerStep):
    """Evaluation in the trainer."""

    last_metrics: dict[str, float] | None = None  # of the latest evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss and metrics on `eval_dataset` (default: the constructor's; a dict of datasets gives `eval_<name>_...`).

        For a language model besides `eval_loss` (mean nats per token over the whole set) `eval_perplexity` and, if
        the tokenizer knows the bytes of its tokens, `eval_bits_per_byte`. The result is logged.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ConfigError("evaluate needs a dataset: give eval_dataset to it or to the trainer")
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, part in dataset.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        started = time.monotonic()
        result = self._evaluate(dataset, keep_predictions=False)
        metrics = self._with_speed(result, metric_key_prefix, started)
        self.last_metrics = metrics
        self.log(metrics)
        self._call("on_evaluate", metrics=metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predictions (see `EvalPrediction`), labels and metrics on a dataset."""
        started = time.monotonic()
        result = self._evaluate(test_dataset, keep_predictions=True)
        metrics = self._with_speed(result, metric_key_prefix, started)
        self._call("on_predict", metrics=metrics)
        return PredictionOutput(result.predictions, result.label_ids if result.has_labels else None, metrics)

    def log(self, logs: Mapping[str, Any]) -> None:
        """Adds an entry to the log history and tells the callbacks."""
        entry = {**logs, "epoch": self.state.epoch}
        if self.args.include_num_input_tokens_seen != "no" and "loss" in logs:
            entry["num_input_tokens_seen"] = self.state.num_input_tokens_seen
        self.state.log_history.append({**entry, "step": self.state.global_step})
        self._call("on_log", logs=entry)

    def _evaluate(self, dataset: Any, keep_predictions: bool) -> EvaluationResult:
        loader = self._make_loader(self._tokenized(dataset), self.args.per_device_eval_batch_size, training=False)
        batches = len(loader) if hasattr(loader, "__len__") else None

        def on_batch() -> None:
            self._call("on_prediction_step", batches=batches)
            if self._signals.received is not None:
                raise StopRequested

        if hasattr(loader, "seek"):
            loader.seek(0, 0)  # a loader that is used again starts again
        lengths = getattr(self.processing_class, "token_byte_lengths", None)
        options = EvaluationOptions(
            compute_metrics=None if self.args.prediction_loss_only else self.compute_metrics,
            preprocess_logits_for_metrics=self.preprocess_logits_for_metrics,
            batch_eval_metrics=self.args.batch_eval_metrics,
            keep_predictions=keep_predictions,
            byte_lengths=lengths() if lengths is not None else None,
            label_name=self._label_name,
            on_batch=on_batch,
            compute_loss=self.compute_loss if self._has_own_objective() else None,
        )
        return run_evaluation(self.model, loader, options)

    def _with_speed(self, result: EvaluationResult, prefix: str, started: float) -> dict[str, float]:
        seconds = max(time.monotonic() - started, 1e-9)
        # the perplexity of another objective than the likelihood would be none
        likelihood = self._shifted and not self._has_own_objective()
        values = {**result.summary(likelihood), **result.metrics}
        metrics = {
            name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in values.items()
        }
        metrics[f"{prefix}_runtime"] = round(seconds, 4)
        metrics[f"{prefix}_samples_per_second"] = round(result.samples / seconds, 3)
        metrics[f"{prefix}_steps_per_second"] = round(result.batches / seconds, 3)
        return metrics

    def _note_best(self, metrics: Mapping[str, float]) -> bool:
        """Updates the best metric in the state; whether this evaluation is the best so far."""
        name = self.args.metric_for_best_model
        if name is None:
            return False
        key = name if name.startswith("eval_") else f"eval_{name}"
        if key not in metrics:
            raise ConfigError(f"metric_for_best_model={name!r} is not among the metrics: {', '.join(sorted(metrics))}")
        value, best = metrics[key], self.state.best_metric
        if not math.isfinite(value):
            return False
        better = best is None or (value > best if self.args.greater_is_better else value < best)
        if better:
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        return better
