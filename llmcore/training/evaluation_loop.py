"""Loss and metrics over a dataset, batch by batch.

The loss is the mean over all trained tokens of the dataset, however it is cut into batches. A language model's logits
never exist as a whole unless `compute_metrics` asks for predictions, and then one batch at a time.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from llmcore.errors import ConfigError
from llmcore.inference import inference
from llmcore.labels import IGNORE_INDEX
from llmcore.models.inputs import key_lengths
from llmcore.training.batches import (
    accepted_arguments,
    count_trained_tokens,
    predicts_words,
    shifts_labels,
)
from llmcore.training.outputs import EvalPrediction


@dataclasses.dataclass
class EvaluationOptions:
    """What to compute besides the loss."""

    compute_metrics: Any = None
    preprocess_logits_for_metrics: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    batch_eval_metrics: bool = False
    keep_predictions: bool = False
    byte_lengths: np.ndarray | None = None  # bytes of each token of the vocabulary
    label_name: str = "labels"
    on_batch: Callable[[], None] | None = None
    compute_loss: Callable[..., Any] | None = None
    """`Trainer.compute_loss`, where the objective is not the model's own."""

    @property
    def needs_logits(self) -> bool:
        return self.compute_metrics is not None or self.keep_predictions


@dataclasses.dataclass
class EvaluationResult:
    """Sums over a dataset; `metrics` is what `compute_metrics` returned."""

    loss_sum: float = 0.0
    tokens: int = 0
    bytes: int = 0
    samples: int = 0
    batches: int = 0
    has_labels: bool = False
    predictions: Any = None
    label_ids: Any = None
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)

    def summary(self, language_model: bool) -> dict[str, float]:
        """loss, and for a language model perplexity and, where the bytes are known, bits per byte."""
        if not self.has_labels:
            return {}
        loss = self.loss_sum / self.tokens if self.tokens else math.nan
        values = {"loss": loss}
        if language_model:
            values["perplexity"] = math.exp(loss) if loss < 700 else math.inf
            if self.bytes:
                values["bits_per_byte"] = self.loss_sum / math.log(2) / self.bytes
        return values


def run_evaluation(model: Any, batches: Iterable[Mapping[str, Any]], options: EvaluationOptions) -> EvaluationResult:
    """Evaluates `model` on `batches`; dropout is off, nothing is recorded, and the mode is put back at the end."""
    result = EvaluationResult()
    metrics = _MetricReducer(options, predicts_words(model))
    with inference(model):
        for batch in batches:
            _evaluate_batch(model, batch, options, result, metrics)
            result.batches += 1
            if options.on_batch is not None:
                options.on_batch()
    result.metrics, result.predictions, result.label_ids = metrics.finish()
    return result


def _evaluate_batch(
    model: Any, batch: Mapping[str, Any], options: EvaluationOptions, result: EvaluationResult, metrics: _MetricReducer
) -> None:
    accepted = accepted_arguments(model)
    inputs = {name: value for name, value in batch.items() if name in accepted}
    labels = batch.get(options.label_name)
    shifted = shifts_labels(model)
    result.samples += len(next(iter(batch.values())))
    if labels is not None:
        labels = np.asarray(labels)
        result.has_labels = True
        result.tokens += count_trained_tokens(labels, shifted)
        if options.byte_lengths is not None and shifted:
            targets = labels[:, 1:]
            result.bytes += int(options.byte_lengths[targets[targets != IGNORE_INDEX]].sum())
    if options.compute_loss is not None:
        _evaluate_own_loss(
            options.compute_loss, model, batch, labels, result, metrics if options.needs_logits else None
        )
        return
    packed = batch.get("position_ids") is not None  # several documents in a row, which `per_token_loss` would join
    streams = hasattr(model, "per_token_loss") and not (options.needs_logits or packed)
    if labels is not None and shifted and streams:
        if batch.get("attention_mask") is not None:
            key_lengths(batch["attention_mask"], labels.shape)  # refuses padding on the left, which it would not see
        # float64: a sum over millions of tokens would lose digits in float32
        result.loss_sum += float(model.per_token_loss(batch["input_ids"], labels).sum(dtype=np.float64))
        return
    if options.needs_logits and "return_logits" in accepted:
        inputs["return_logits"] = True
    output = model(**inputs)
    if labels is not None and output.loss is not None:
        result.loss_sum += output.loss.item() * count_trained_tokens(labels, shifted)
    if options.needs_logits:
        metrics.add(output.logits.numpy(), labels)


def _evaluate_own_loss(
    compute_loss: Callable[..., Any],
    model: Any,
    batch: Mapping[str, Any],
    labels: np.ndarray | None,
    result: EvaluationResult,
    metrics: _MetricReducer | None,
) -> None:
    """The objective that is trained is the one that is evaluated; rows are counted where there are no labels."""
    items = len(next(iter(batch.values()))) if labels is None else count_trained_tokens(labels, shifts_labels(model))
    loss = compute_loss(model, batch, return_outputs=metrics is not None, num_items_in_batch=max(1, items))
    if metrics is not None:
        loss, output = loss
        metrics.add(output.logits.numpy(), labels)
    result.loss_sum += loss.item() * items
    if labels is None:
        result.has_labels = True
        result.tokens += items


class _MetricReducer:
    """Feeds `compute_metrics` in one of three ways.

    An object with `update(predictions, labels)` and `compute()` sees each batch; with `batch_eval_metrics` a function
    is called as `compute_metrics(EvalPrediction, compute_result)` per batch; otherwise once, on everything.
    """

    def __init__(self, options: EvaluationOptions, scores_words: bool) -> None:
        self.options = options
        self.scores_words = scores_words
        self.compute = options.compute_metrics
        self.streams = hasattr(self.compute, "update") and hasattr(self.compute, "compute")
        if options.batch_eval_metrics and self.compute is not None and not self.streams:
            if "compute_result" not in inspect.signature(self.compute).parameters:
                raise ConfigError("batch_eval_metrics=True needs compute_metrics(prediction, compute_result)")
        if self.streams and hasattr(self.compute, "reset"):
            self.compute.reset()  # what an earlier evaluation has counted
        self.collects = options.keep_predictions or not (self.streams or options.batch_eval_metrics)
        self.predictions: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.waiting: EvalPrediction | None = None
        self.measured = False

    def add(self, logits: np.ndarray, labels: np.ndarray | None) -> None:
        if self.options.preprocess_logits_for_metrics is not None:
            predictions = np.asarray(self.options.preprocess_logits_for_metrics(logits, labels))
        else:
            # scores of a vocabulary are too much to keep: for 1,000 sequences of GPT-2 they take 200 GB
            predictions = logits.argmax(-1).astype(np.int32) if self.scores_words else np.array(logits)
        if self.collects:
            self.predictions.append(predictions)
        if labels is None:
            return  # there is nothing to compare with
        self.measured = True
        if self.collects:
            self.labels.append(labels)
        if self.compute is None:
            return
        if self.streams:
            self.compute.update(predictions, labels)
        elif self.options.batch_eval_metrics:
            # one batch behind, because only the last call asks for the result
            if self.waiting is not None:
                self.compute(self.waiting, compute_result=False)
            self.waiting = EvalPrediction(predictions, labels)

    def finish(self) -> tuple[dict[str, Any], Any, Any]:
        predictions = _concatenate(self.predictions) if self.predictions else None
        labels = _concatenate(self.labels) if self.labels else None
        metrics: dict[str, Any] = {}
        if self.streams and self.measured:
            metrics = self.compute.compute()
        elif self.waiting is not None:
            metrics = self.compute(self.waiting, compute_result=True)
        elif self.compute is not None and not self.streams and labels is not None:
            metrics = self.compute(EvalPrediction(predictions, labels))
        return {name: _plain(value) for name, value in (metrics or {}).items()}, predictions, labels


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0 else value


def _concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    """Joins along the first axis; rows of different lengths are filled with -100, as transformers does."""
    if arrays[0].ndim < 2 or len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    longest = max(array.shape[1] for array in arrays)
    padded = []
    for array in arrays:
        fill = [(0, 0), (0, longest - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
        padded.append(np.pad(array, fill, constant_values=IGNORE_INDEX))
    return np.concatenate(padded)
