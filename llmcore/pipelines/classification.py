"""Labels of texts and of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmcore.errors import ConfigError
from llmcore.pipelines.base import Pipeline, softmax

_FUNCTIONS = {
    "softmax": softmax,
    "sigmoid": lambda scores: 1 / (1 + np.exp(-scores.astype(np.float64))),
    "none": lambda scores: scores.astype(np.float64),
}


class TextClassificationPipeline(Pipeline):
    """{"label", "score"} of each text; with `top_k` a list of the likeliest, None for all."""

    heads = ("ForSequenceClassification",)

    def run(self, texts: list[str], top_k: int | None = 1, function_to_apply: str | None = None) -> list[Any]:
        """`function_to_apply`: softmax, sigmoid or none; by itself what the model's kind of problem asks for."""
        names = self.config.id2label
        results: list[Any] = [None] * len(texts)
        function = self._function(function_to_apply)
        for index, _, logits in self.logits(texts):
            scores = function(logits)
            order = np.argsort(-scores, kind="stable")[:top_k]
            found = [{"label": names[int(label)], "score": float(scores[label])} for label in order]
            results[index] = found[0] if top_k == 1 else found
        return results

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """As transformers has it, a single text gives a list, too, unless `top_k` was given."""
        result = super().__call__(inputs, **settings)
        legacy = isinstance(inputs, str) and "top_k" not in {**self.settings, **settings}
        return [result] if legacy else result

    def _function(self, name: str | None) -> Any:
        if name is None:
            problem, count = self.config.problem_type, self.config.num_labels
            if problem == "regression":
                name = "none"
            else:
                name = "sigmoid" if problem == "multi_label_classification" or count == 1 else "softmax"
        if name not in _FUNCTIONS:
            raise ConfigError(f"function_to_apply must be one of {', '.join(_FUNCTIONS)}, got {name!r}")
        return _FUNCTIONS[name]


class TokenClassificationPipeline(Pipeline):
    """The tokens of each text whose label is not in `ignore_labels`, or, with `aggregation_strategy="simple"`, the
    groups of neighbours with one label."""

    heads = ("ForTokenClassification",)

    def run(
        self, texts: list[str], aggregation_strategy: str = "none", ignore_labels: tuple[str, ...] = ("O",)
    ) -> list[Any]:
        if aggregation_strategy not in ("none", "simple"):
            raise ConfigError(f"aggregation_strategy must be none or simple, got {aggregation_strategy!r}")
        results: list[Any] = [None] * len(texts)
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        for index, row, logits in self.logits(texts, **options):
            entities = self._entities(texts[index], row, softmax(logits))
            if aggregation_strategy == "simple":
                entities = self._groups(entities)
            label = "entity" if aggregation_strategy == "none" else "entity_group"
            results[index] = [entity for entity in entities if entity[label] not in ignore_labels]
        return results

    def _entities(self, text: str, row: Any, scores: np.ndarray) -> list[dict[str, Any]]:
        """One for every token that is not special."""
        found = []
        for position, (start, end) in enumerate(row["offset_mapping"]):
            if row["special_tokens_mask"][position]:
                continue
            label, word = (
                int(scores[position].argmax()),
                self.tokenizer.convert_ids_to_tokens(row["input_ids"][position]),
            )
            if word == self.tokenizer.unk_token:
                word = text[start:end]
            found.append(
                {
                    "entity": self.config.id2label[label],
                    "score": float(scores[position, label]),
                    "index": position,
                    "word": word,
                    "start": start,
                    "end": end,
                }
            )
        return found

    def _groups(self, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Neighbours with the same label; B-x begins a new group of x, I-x goes on with one."""
        groups: list[list[dict[str, Any]]] = []
        for entity in entities:
            begins = entity["entity"].startswith("B-")
            if groups and not begins and _plain(groups[-1][-1]["entity"]) == _plain(entity["entity"]):
                groups[-1].append(entity)
            else:
                groups.append([entity])
        decoder = self.tokenizer.backend.decoder
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.mean([entity["score"] for entity in group])),
                "word": _joined([entity["word"] for entity in group], decoder),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]


def _plain(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _joined(words: list[str], decoder: Any) -> str:
    return decoder.decode(words) if decoder is not None else " ".join(words)
