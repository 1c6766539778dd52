"""What a classifier says about texts, row by row: for estimators and pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmcore.inference import context_length, inference
from llmcore.training.batches import accepted_arguments


def text_logits(
    model: Any,
    texts: Sequence[str],
    tokenizer: Any,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The logits of a model for sequence classification or regression: (texts, num_labels) float32.

    Texts of similar length are computed together, `batch_size` at a time, and cut to `max_length` or the model's
    context. A text's logits do not depend on the others.
    """
    limit = min(length for length in (max_length, context_length(model), 1 << 30) if length is not None)
    encoded = tokenizer(list(texts), truncation=True, max_length=limit)
    takes = accepted_arguments(model)
    columns = {name: rows for name, rows in encoded.items() if name in takes}
    order = sorted(range(len(texts)), key=lambda number: len(columns["input_ids"][number]))
    logits = np.zeros((len(texts), model.config.num_labels), np.float32)
    with inference(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = {name: [rows[number] for number in chosen] for name, rows in columns.items()}
            logits[chosen] = model(**tokenizer.pad(batch, return_tensors="np")).logits.numpy()
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
    return logits


def probabilities(logits: np.ndarray) -> np.ndarray:
    """softmax over the last axis, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
