"""Texts that a model writes after prompts, compared with references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmcore.errors import DataError
from llmcore.evaluation.text_metrics import TextMetrics

REFERENCE_COLUMNS = ("references", "reference", "completion", "target")


def evaluate_generation(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    metrics: TextMetrics,
    *,
    tokenizer: Any = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Lets `model` continue the `prompt` of each row and compares what it writes with the row's `reference` (or
    `references`, `completion`, `target`: a text, or several of which any may be matched).

    `settings` are those of `generate`, such as max_new_tokens and stop_strings; by default the text is greedy. Blanks
    around a text do not count. Prompts of similar length are computed together, `batch_size` at a time; the result
    depends on neither. `progress` is called with (rows done, rows in all). Returns the measures of `metrics` and
    `rows`. Raises DataError, with the number of the row, for one without a prompt or a reference.
    """
    tokenizer = tokenizer if tokenizer is not None else model.tokenizer
    pairs = [_pair(row, number) for number, row in enumerate(rows)]
    if not pairs:
        raise DataError("there are no rows to evaluate on")
    order = sorted(range(len(pairs)), key=lambda number: len(pairs[number][0]))
    texts = [""] * len(pairs)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        written = model.generate([pairs[number][0] for number in chosen], tokenizer=tokenizer, **settings)
        for number, text in zip(chosen, written, strict=True):
            texts[number] = text.strip()
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    metrics.reset()
    metrics.update(texts, [references for _, references in pairs])
    return {**metrics.compute(), "rows": len(pairs)}


def _pair(row: Mapping[str, Any], number: int) -> tuple[str, list[str]]:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise DataError(f"row {number}: 'prompt' must be a text that is not empty")
    name = next((column for column in REFERENCE_COLUMNS if row.get(column) is not None), None)
    if name is None:
        raise DataError(f"row {number}: there is no reference in any of the columns {', '.join(REFERENCE_COLUMNS)}")
    references = [row[name]] if isinstance(row[name], str) else row[name]
    if not isinstance(references, (list, tuple)) or not all(isinstance(text, str) for text in references):
        raise DataError(f"row {number}: {name!r} must be a text or a list of texts")
    return prompt, [text.strip() for text in references]
