"""Texts that go on, words behind masks, and hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmcore.errors import ConfigError, DataError
from llmcore.pipelines.base import Pipeline, softmax


class TextGenerationPipeline(Pipeline):
    """[{"generated_text": ...}] for each text, one for each of `num_return_sequences`; for a conversation (a list of
    messages) the conversation with the assistant's answer."""

    heads = ("ForCausalLM", "LMHeadModel")

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        if isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], Mapping):
            return self._answer(inputs, **{**self.settings, **settings})
        if isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], (list, tuple)):
            return [self._answer(messages, **{**self.settings, **settings}) for messages in inputs]
        return super().__call__(inputs, **settings)

    def run(self, texts: list[str], return_full_text: bool = True, **settings: Any) -> list[Any]:
        """`settings`: of `generate`."""
        results = []
        for begin in range(0, len(texts), self.batch_size):
            batch = texts[begin : begin + self.batch_size]
            written = self.model.generate(batch, tokenizer=self.tokenizer, **settings)
            count = len(written) // len(batch)
            for index, text in enumerate(batch):
                new = written[index * count : (index + 1) * count]
                results.append([{"generated_text": (text if return_full_text else "") + piece} for piece in new])
        return results

    def _answer(self, messages: Any, return_full_text: bool = True, **settings: Any) -> list[dict[str, Any]]:
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        output = self.model.generate(
            np.array([ids]), tokenizer=self.tokenizer, return_dict_in_generate=True, **settings
        )
        answers = output.texts
        if not return_full_text:
            return [{"generated_text": answer} for answer in answers]
        return [
            {"generated_text": [*map(dict, messages), {"role": "assistant", "content": answer}]} for answer in answers
        ]


class FillMaskPipeline(Pipeline):
    """The `top_k` likeliest words for the mask of each text: {"score", "token", "token_str", "sequence"}; with several
    masks a list of such lists."""

    heads = ("ForMaskedLM",)

    def run(self, texts: list[str], top_k: int = 5, targets: list[str] | str | None = None) -> list[Any]:
        """`targets`: choose among these words alone."""
        mask = self.tokenizer.mask_token_id
        if mask is None:
            raise ConfigError("fill-mask needs a tokenizer with a mask token")
        ids = self._targets(targets) if targets is not None else None
        results: list[Any] = [None] * len(texts)
        for index, row, logits in self.logits(texts):
            places = [place for place, token in enumerate(row["input_ids"]) if token == mask]
            if not places:
                raise DataError(f"there is no {self.tokenizer.mask_token} in {texts[index]!r:.80}")
            found = [self._words(row["input_ids"], place, logits[place], top_k, ids, len(places)) for place in places]
            results[index] = found[0] if len(places) == 1 else found
        return results

    def _targets(self, targets: list[str] | str) -> np.ndarray:
        ids = []
        for word in [targets] if isinstance(targets, str) else targets:
            token = self.tokenizer.convert_tokens_to_ids(word)
            if token is None:
                raise DataError(f"the word {word!r} is not in the vocabulary as a whole")
            ids.append(token)
        return np.array(sorted(set(ids)))

    def _words(
        self, row: list[int], place: int, logits: np.ndarray, top_k: int, ids: np.ndarray | None, masks: int
    ) -> list[dict[str, Any]]:
        scores = softmax(logits)
        candidates = np.arange(len(scores)) if ids is None else ids
        order = candidates[np.argsort(-scores[candidates], kind="stable")[:top_k]]
        found = []
        for token in map(int, order):
            filled = [*row[:place], token, *row[place + 1 :]]
            found.append(
                {
                    "score": float(scores[token]),
                    "token": token,
                    "token_str": self.tokenizer.decode([token]),
                    "sequence": self.tokenizer.decode(filled, skip_special_tokens=masks == 1),
                }
            )
        return found


class FeatureExtractionPipeline(Pipeline):
    """The last hidden state of each text as nested lists, [1][tokens][width]."""

    def run(self, texts: list[str], return_tensors: bool = False) -> list[Any]:
        """`return_tensors` gives arrays (1, tokens, width) instead."""
        results: list[Any] = [None] * len(texts)
        for index, _, states in self.logits(texts):
            results[index] = states[None].copy() if return_tensors else [states.tolist()]
        return results
