"""What all pipelines share: one text or a list of them in, one result or a list of them out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from llmcore.errors import ConfigError, DataError
from llmcore.inference import context_length, inference


class Pipeline:
    """A model, its tokenizer, and what its task makes of their numbers. Called with a text or several."""

    heads: ClassVar[tuple[str, ...]] = ()  # ends of the names of the models that can do the task

    def __init__(self, model: Any, tokenizer: Any, task: str, batch_size: int, settings: dict[str, Any]) -> None:
        if self.heads and not type(model).__name__.endswith(self.heads):
            raise ConfigError(f"{task} needs a model whose class ends in {self.heads[0]}, got {type(model).__name__}")
        self.model, self.task, self.batch_size, self.settings = model, task, batch_size, settings
        self.tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        if self.tokenizer is None:
            raise ConfigError(f"{task} needs a tokenizer: give tokenizer=, or a model's folder that holds one")
        self.config = model.config

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """Results of one text, or the list of those of several. `settings` go before those of the constructor."""
        settings = {**self.settings, **settings}
        if isinstance(inputs, str):
            return self.run([inputs], **settings)[0]
        if not isinstance(inputs, Iterable):
            raise DataError(f"{self.task} takes a text or a list of texts, got {type(inputs).__name__}")
        texts = list(inputs)
        for text in texts:
            if not isinstance(text, str):
                raise DataError(f"{self.task} takes texts, got {type(text).__name__}")
        return self.run(texts, **settings)

    def run(self, texts: list[str], **settings: Any) -> list[Any]:
        """The result of each text."""
        raise NotImplementedError

    def logits(self, texts: list[str], **options: Any) -> Iterator[tuple[int, Any, np.ndarray]]:
        """(number of the text, its encoding, its logits without padding) of each text, batches of similar length."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        limit = context_length(self.model)
        with inference(self.model):
            for begin in range(0, len(order), self.batch_size):
                chosen = order[begin : begin + self.batch_size]
                rows = [self.tokenizer(texts[i], truncation=True, max_length=limit, **options) for i in chosen]
                names = self.tokenizer.model_input_names
                wanted = [{name: row[name] for name in names if name in row} for row in rows]
                batch = self.tokenizer.pad(wanted, return_tensors="np")
                output = self.model(**batch)
                scores = output.logits if hasattr(output, "logits") else output.last_hidden_state
                for index, row, array in zip(chosen, rows, scores.numpy(), strict=True):
                    yield index, row, array[: len(row["input_ids"])] if array.ndim == 2 else array


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last dimension, in float64."""
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
