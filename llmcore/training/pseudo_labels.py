"""Semi-supervised training: a model labels texts itself, and what it is sure of is trained on (Lee 2013).

`pseudo_label` does the labelling once, with a report; `self_train` trains, labels, and trains again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llmcore.data.rows import LABEL_COLUMNS, PAIR_COLUMNS, TEXT_COLUMNS
from llmcore.errors import ConfigError, DataError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.text_logits import probabilities, text_logits


@dataclasses.dataclass(frozen=True)
class PseudoLabelReport:
    """What was labelled. Of rows that had a label, which the model did not see, `known` and `agreement` tell how good
    the labels are: of all rows, and of those that were kept."""

    confidence: float
    rows: int
    kept: int
    by_class: dict[str, int]
    """Rows kept of each class, in the order of the model's numbers."""
    mean_confidence: float | None
    """Of the rows kept; None if there are none."""
    known: int
    known_kept: int
    agreement: float | None
    agreement_kept: float | None

    def render(self) -> str:
        """`kept 812 of 1,000 rows (81.2 %) at confidence 0.9: negative 400, positive 412; of 100 known ... `"""
        share = f" ({100 * self.kept / self.rows:.1f} %)" if self.rows else ""
        classes = ", ".join(f"{name} {count:,}" for name, count in self.by_class.items())
        text = f"kept {self.kept:,} of {self.rows:,} rows{share} at confidence {self.confidence:g}: {classes}"
        if not self.known:
            return text
        kept = (
            ""
            if self.agreement_kept is None
            else f", {100 * self.agreement_kept:.1f} % of the {self.known_kept:,} kept"
        )
        return f"{text}; right for {100 * (self.agreement or 0):.1f} % of {self.known:,} known labels{kept}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def pseudo_label(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any = None,
    *,
    confidence: float = 0.9,
    max_per_class: int | None = None,
    batch_size: int = 32,
    text_field: str = "text",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], PseudoLabelReport]:
    """Labels texts with what the model is sure of.

    A row is kept if the probability of its likeliest class is at least `confidence`; with `max_per_class` only so many
    of each class, the surest ones, so that a frequent class does not swamp the others. The rows that come back are
    {text_field: text, "label": name}, in the order they had. A label that a row has already is used for the report
    only.

    Raises ConfigError for a model that does not classify texts, DataError for a row without text, with a pair of texts,
    or with a label that the model does not know.
    """
    tokenizer = tokenizer if tokenizer is not None else model.tokenizer
    _check_model(model)
    if not 0 <= confidence <= 1:
        raise ConfigError(f"confidence is a probability from 0 to 1, got {confidence}")
    if max_per_class is not None and max_per_class < 1:
        raise ConfigError(f"max_per_class must be at least 1, got {max_per_class}")
    texts = [_text(row, number, text_field) for number, row in enumerate(rows)]
    if not texts:
        raise DataError("there are no rows to label")
    chances = probabilities(text_logits(model, texts, tokenizer, batch_size=batch_size, progress=progress))
    classes, sureness = chances.argmax(-1), chances.max(-1)
    kept = sureness >= confidence
    if max_per_class is not None:
        for number in range(chances.shape[1]):
            members = np.flatnonzero(kept & (classes == number))
            surest = members[np.argsort(-sureness[members], kind="stable")]
            kept[surest[max_per_class:]] = False
    names = _names(model)
    known = _known_labels(rows, names)
    right, has_label = classes == known, known >= 0
    report = PseudoLabelReport(
        confidence=confidence,
        rows=len(texts),
        kept=int(kept.sum()),
        by_class={names[number]: int((kept & (classes == number)).sum()) for number in sorted(names)},
        mean_confidence=float(sureness[kept].mean()) if kept.any() else None,
        known=int(has_label.sum()),
        known_kept=int((has_label & kept).sum()),
        agreement=float(right[has_label].mean()) if has_label.any() else None,
        agreement_kept=float(right[has_label & kept].mean()) if (has_label & kept).any() else None,
    )
    labelled = [{text_field: texts[row], "label": names[int(classes[row])]} for row in np.flatnonzero(kept)]
    return labelled, report


def self_train(
    model_init: Callable[[], Any],
    labelled: Sequence[Mapping[str, Any]],
    unlabelled: Sequence[Mapping[str, Any]],
    args: TrainingArguments,
    tokenizer: Any,
    *,
    rounds: int = 1,
    confidence: float = 0.9,
    max_per_class: int | None = None,
    **trainer_options: Any,
) -> tuple[Any, list[PseudoLabelReport]]:
    """Trains a new model on `labelled`, and then, `rounds` times, another new one on `labelled` and what the one before
    is sure of in `unlabelled`.

    Each model comes from `model_init` and starts anew, so that it does not merely repeat the errors of the one before.
    Labels are names or numbers of the model's classes. `trainer_options` go to the trainer, such as eval_dataset and
    compute_metrics. Returns the trainer of the last round, trained, and the report of each labelling. Stops early where
    nothing is kept.

    Raises what `pseudo_label` raises, and DataError for a labelled row without a label.
    """
    from llmcore.training.trainer import Trainer

    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}")
    reports: list[PseudoLabelReport] = []
    extra: list[dict[str, Any]] = []
    for number in range(rounds + 1):
        model = model_init()
        _check_model(model)
        rows = _training_rows(labelled, extra, args.dataset_text_field, _names(model))
        trainer = Trainer(model, args, train_dataset=rows, processing_class=tokenizer, **trainer_options)
        trainer.train()
        if number == rounds:
            break
        extra, report = pseudo_label(
            model,
            unlabelled,
            tokenizer,
            confidence=confidence,
            max_per_class=max_per_class,
            text_field=args.dataset_text_field,
        )
        reports.append(report)
        if not extra:
            break
    return trainer, reports


def _training_rows(
    labelled: Sequence[Mapping[str, Any]], extra: Sequence[Mapping[str, Any]], text_field: str, names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Both under the column names of the first, with names as labels: the trainer takes rows of one shape."""
    if not labelled:
        raise DataError("there are no labelled rows to start from")
    classes = _known_labels(labelled, names)
    if (classes < 0).any():
        raise DataError(f"row {classes.argmin()}: a labelled row needs a label")
    first = labelled[0]
    label = next(name for name in LABEL_COLUMNS if name in first)
    text = next((name for name in (text_field, *TEXT_COLUMNS) if name in first), text_field)
    rows = [{**row, label: names[int(number)]} for row, number in zip(labelled, classes, strict=True)]
    return rows + [{text: row[text_field], label: row["label"]} for row in extra]


def _check_model(model: Any) -> None:
    from llmcore.training.batches import task_of

    if task_of(model) != "sequence-classification" or model.config.num_labels < 2:
        raise ConfigError(f"{type(model).__name__} does not classify texts; pseudo-labels are classes of texts")


def _names(model: Any) -> dict[int, str]:
    return {int(number): str(name) for number, name in model.config.id2label.items()}


def _text(row: Mapping[str, Any], number: int, text_field: str) -> str:
    text = next((row[name] for name in (text_field, *TEXT_COLUMNS) if name in row), None)
    if not isinstance(text, str):
        raise DataError(f"row {number}: there is no text in {text_field!r}")
    pair = next((name for name in PAIR_COLUMNS if name in row), None)
    if pair is not None:
        raise DataError(f"row {number}: {pair!r} is a second text; pseudo-labels are made for rows of one text")
    return text


def _known_labels(rows: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> np.ndarray:
    """(rows,) class numbers, -1 where a row has no label."""
    numbers = {name: number for number, name in names.items()}
    known = np.full(len(rows), -1)
    for place, row in enumerate(rows):
        label = next((row[name] for name in LABEL_COLUMNS if row.get(name) not in (None, "")), None)
        if label is None:
            continue
        number = numbers.get(str(label))
        if number is None and str(label).isdigit() and int(label) in names:
            number = int(label)
        if number is None:
            raise DataError(f"row {place}: the label {label!r} is none of {', '.join(numbers)}")
        known[place] = number
    return known
