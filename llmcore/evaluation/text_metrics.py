"""How close written texts come to references: BLEU, chrF and TER by sacrebleu, ROUGE by rouge-score.

Both packages are the extra `eval`. What is decided here is how a text is cut into words: with the usual settings a
Chinese sentence is one word to sacrebleu and nothing to rouge-score, so that even equal texts score 0. References in
Chinese are therefore cut into characters (BLEU: sacrebleu's `zh`; ROUGE: characters, or the words that a function of
yours finds). The result says which way was taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from llmcore.errors import ConfigError, DataError

TEXT_METRICS = ("bleu", "chrf", "ter", "rouge")
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ONE_HAN = re.compile(f"[{_HAN}]")
_HAN_OR_WORD = re.compile(f"[{_HAN}]|[^\\W_{_HAN}]+")


class TextMetrics:
    """`update` with batches of texts, `merge` what others have collected, `compute` the measures.

    Args:
        metrics: some of "bleu", "chrf", "ter", "rouge".
        language: "zh", or another language's code; None looks at the references: it is "zh" where most of their letters
            are Chinese characters.
        segment: for ROUGE, a function from a text to its words, such as `jieba.lcut`; None cuts Chinese into characters
            and leaves other text to rouge-score.

    Raises ConfigError where the packages of the extra `eval` are missing.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("bleu", "chrf", "rouge"),
        language: str | None = None,
        segment: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        unknown = [name for name in metrics if name not in TEXT_METRICS]
        if unknown or not metrics:
            raise ConfigError(f"metrics must be some of {', '.join(TEXT_METRICS)}, got {list(metrics)}")
        self.metrics = tuple(metrics)
        self.language = language
        self.segment = segment
        if {"bleu", "chrf", "ter"} & set(metrics):
            _sacrebleu()
        if "rouge" in metrics:
            _rouge_scorer()
        self.reset()

    def reset(self) -> None:
        """Forgets all texts."""
        self._predictions: list[str] = []
        self._references: list[list[str]] = []

    def update(self, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> None:
        """Adds texts, each with its reference, or with several of which it may match any."""
        if isinstance(predictions, str) or isinstance(references, str):
            raise DataError("texts come in lists: [prediction, ...] and [reference, ...]")
        if len(predictions) != len(references):
            raise DataError(f"{len(predictions)} predictions, but {len(references)} references: each needs its own")
        rows = [[reference] if isinstance(reference, str) else list(reference) for reference in references]
        for number, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
            if not isinstance(prediction, str) or not row or not all(isinstance(text, str) for text in row):
                raise DataError(f"row {number}: a prediction is a string, its reference a string or strings")
        self._predictions += predictions
        self._references += rows

    def merge(self, other: TextMetrics) -> None:
        """Adds the texts of `other`, after its own."""
        self._predictions += other._predictions
        self._references += other._references

    def compute(self) -> dict[str, Any]:
        """bleu, chrf, ter from 0 to 100, each with its sacrebleu `_signature`; rouge1, rouge2, rougeL, rougeLsum from 0
        to 1: means of the F-measure over the rows, with `rouge_words` (english, characters or segmented).

        Raises DataError where there are no texts.
        """
        if not self._predictions:
            raise DataError("there are no texts to compare: nothing was collected")
        chinese = is_chinese(self._references) if self.language is None else self.language.split("-")[0] == "zh"
        values: dict[str, Any] = {}
        for name in self.metrics:
            values |= self._rouge(chinese) if name == "rouge" else self._corpus_score(name, chinese)
        return values

    def _corpus_score(self, name: str, chinese: bool) -> dict[str, Any]:
        sacrebleu = _sacrebleu()
        if name == "bleu":
            metric = sacrebleu.BLEU(tokenize="zh" if chinese else "13a")
        else:
            metric = sacrebleu.CHRF() if name == "chrf" else sacrebleu.TER(asian_support=chinese, normalized=chinese)
        most = max(map(len, self._references))
        # sacrebleu wants the first references of all rows, then the second ones, None where a row has fewer
        streams = [[row[i] if i < len(row) else None for row in self._references] for i in range(most)]
        score = metric.corpus_score(self._predictions, streams).score
        return {name: float(score), f"{name}_signature": str(metric.get_signature())}

    def _rouge(self, chinese: bool) -> dict[str, Any]:
        words = "segmented" if self.segment is not None else "characters" if chinese else "english"
        tokenizer = None
        if words != "english":
            tokenizer = _Words(self.segment if self.segment is not None else characters)
        scorer = _rouge_scorer().RougeScorer(list(ROUGE_TYPES), tokenizer=tokenizer)
        rows = [
            scorer.score_multi(references, prediction)
            for prediction, references in zip(self._predictions, self._references, strict=True)
        ]
        means = {kind: math.fsum(row[kind].fmeasure for row in rows) / len(rows) for kind in ROUGE_TYPES}
        return {**means, "rouge_words": words}


def characters(text: str) -> list[str]:
    """Chinese characters one by one; words in other scripts whole, in lower case. Punctuation is left out."""
    return _HAN_OR_WORD.findall(text.lower())


def is_chinese(references: Sequence[Sequence[str]]) -> bool:
    """Whether most of the letters are Chinese characters; a text without letters is not Chinese."""
    letters = han = 0
    for row in references:
        for text in row:
            letters += sum(map(str.isalpha, text))
            han += len(_ONE_HAN.findall(text))
    return 2 * han > letters


class _Words:
    """A tokenizer as rouge-score wants it."""

    def __init__(self, segment: Callable[[str], Sequence[str]]) -> None:
        self._segment = segment

    def tokenize(self, text: str) -> list[str]:
        """The words that are not blank."""
        return [word for word in self._segment(text) if word.strip()]


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ModuleNotFoundError:
        raise ConfigError(
            "BLEU, chrF and TER need sacrebleu, which is not installed: pip install 'llmcore[eval]'"
        ) from None
    return metrics


def _rouge_scorer() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ModuleNotFoundError:
        raise ConfigError("ROUGE needs rouge-score, which is not installed: pip install 'llmcore[eval]'") from None
    return rouge_scorer
