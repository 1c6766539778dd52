"""A classifier, or a model of numbers, on rows of text: the measures of `llmcore.evaluation`, for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmcore.errors import ConfigError, DataError
from llmcore.evaluation import ClassificationMetrics, RegressionMetrics
from llmcore.inference import context_length, inference
from llmcore.training.arguments import TrainingArguments
from llmcore.training.batches import accepted_arguments, task_of
from llmcore.training.text_examples import tokenize_rows

CLASSIFIERS = ("sequence-classification", "token-classification")


def evaluate_rows(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any = None,
    *,
    batch_size: int = 32,
    text_field: str = "text",
    zero_division: float | str = "warn",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """How well a model for classes (of texts or of words) or numbers does on labelled rows.

    Rows are as the trainer takes them, labels by name or number. Rows of similar length are computed together, logits
    exist for a batch at a time. `progress` is called with (rows done, rows in all).

    Returns the measures of `ClassificationMetrics` with `labels` (names of the classes that occur) and
    `confusion_matrix` (true class, predicted class), or those of `RegressionMetrics`; and `rows`. Raises ConfigError
    for a model of another kind, DataError for rows that do not suit it.
    """
    task = task_of(model)
    tokenizer = tokenizer if tokenizer is not None else model.tokenizer
    if task not in CLASSIFIERS:
        raise ConfigError(f"{type(model).__name__} predicts no labels: a model for classification or regression does")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    args = TrainingArguments(dataset_text_field=text_field)
    examples = tokenize_rows(rows, tokenizer, args, context_length(model), task, config=model.config)
    unlabelled = next((number for number, row in enumerate(examples) if "labels" not in row), None)
    if unlabelled is not None:
        raise DataError(
            f"row {unlabelled}: there is no label to compare with; expected a column 'label' beside the text, this row "
            f"has {', '.join(map(str, rows[unlabelled]))}"
        )
    collate = _collator(task, tokenizer)
    numbers = model.config.num_labels == 1
    metric = RegressionMetrics() if numbers else ClassificationMetrics(zero_division=zero_division)
    takes = accepted_arguments(model)
    order = sorted(range(len(examples)), key=lambda number: len(examples[number]["input_ids"]))
    with inference(model):
        for start in range(0, len(order), batch_size):
            batch = collate([examples[number] for number in order[start : start + batch_size]])
            labels = batch.pop("labels")
            inputs = {name: value for name, value in batch.items() if name in takes}
            metric.update(model(**inputs).logits.numpy(), labels)
            if progress is not None:
                progress(min(start + batch_size, len(order)), len(order))
    result: dict[str, Any] = {**metric.compute(), "rows": len(examples)}
    if isinstance(metric, ClassificationMetrics):
        confusion = metric.confusion
        result["labels"] = [model.config.id2label[int(number)] for number in confusion.classes]
        result["confusion_matrix"] = confusion.matrix.tolist()
    return result


def _collator(task: str, tokenizer: Any) -> Any:
    from llmcore.data.collators import DataCollatorForTokenClassification, DataCollatorWithPadding

    return (DataCollatorWithPadding if task == "sequence-classification" else DataCollatorForTokenClassification)(
        tokenizer
    )
