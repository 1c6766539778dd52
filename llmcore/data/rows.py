"""What the rows of a data set are: told from their columns, checked row by row, reported in a sentence.

Six shapes are known: tokens (`input_ids`), text, text with a label (and perhaps a second text), a prompt with its
completion, messages of a conversation, and words with their tags.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llmcore.errors import DataError

TEXT_COLUMNS = ("text", "sentence", "sentence1", "content")
PAIR_COLUMNS = ("text_pair", "sentence2")
LABEL_COLUMNS = ("label", "labels", "score")
WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags", "pos_tags", "labels")
ROLES = ("system", "user", "assistant", "tool")

_SHOWN_LABELS = 6
_MOST_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class RowShape:
    """The shape of a data set's rows.

    `kind`: tokens, text, text-label, prompt-completion, messages or words-tags. `columns`: role -> name of the column.
    `labels`: the classes in the order of their numbers, None for numbers to be predicted and where there are none.
    """

    kind: str
    columns: dict[str, str]
    rows: int
    labels: tuple[str, ...] | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    span: tuple[float, float] | None = None  # of numbers to be predicted

    @property
    def task(self) -> str:
        """What such rows are made for: causal-lm, sequence-classification, regression or token-classification."""
        if self.kind == "text-label":
            return "regression" if self.labels is None else "sequence-classification"
        return "token-classification" if self.kind == "words-tags" else "causal-lm"

    def render(self) -> str:
        """`4,200 rows of text with a label ('text', 'label'): negative 1,204, positive 2,996`"""
        words = {
            "tokens": "tokens",
            "text": "text",
            "text-label": "text with a label",
            "prompt-completion": "prompts with their completions",
            "messages": "conversations",
            "words-tags": "words with their tags",
        }[self.kind]
        names = ", ".join(repr(name) for name in self.columns.values())
        text = f"{self.rows:,} rows of {words} ({names})"
        if self.span is not None:
            return f"{text}: numbers from {self.span[0]:g} to {self.span[1]:g}"
        if self.labels is None:
            return text
        shown = [f"{name} {self.counts[name]:,}" for name in self.labels[:_SHOWN_LABELS]]
        more = len(self.labels) - len(shown)
        return f"{text}: {', '.join(shown)}" + (f" and {more} more" if more else "")

    def label_id(self, value: Any) -> int:
        """The number of a label as it stands in a row. Raises DataError for one that is not among `labels`."""
        assert self.labels is not None
        name = _name(value)
        if name not in self.labels:
            raise DataError(f"the label {value!r} is none of {', '.join(self.labels[:_SHOWN_LABELS])}")
        return self.labels.index(name)


def detect_rows(rows: Sequence[Mapping[str, Any]], text_field: str = "text", task: str | None = None) -> RowShape:
    """The shape of `rows`, all of which are looked at.

    `text_field` names the column of text. `task` "regression" takes whole-number labels as numbers,
    "sequence-classification" takes any as classes. Raises DataError, with the number of the row, where a row is of
    another shape than the first or holds something else than it should.
    """
    if len(rows) == 0:
        raise DataError("the data set is empty")
    first = rows[0]
    if not isinstance(first, Mapping):
        raise DataError(f"row 0: a row is a dict, got {type(first).__name__}; for text write {{'text': ...}}")
    kind, columns = _kind(first, text_field)
    check = _CHECKS[kind]
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number}: a row is a dict, got {type(row).__name__}")
        for role, name in columns.items():
            if role != "label" and row.get(name) is None:
                raise DataError(f"row {number}: there is no {name!r}; row 0 has one ({_listed(row)})")
        check(row, columns, number)
    if kind == "text-label":
        return _with_labels(rows, columns, task)
    if kind == "words-tags":
        return _with_tags(rows, columns)
    return RowShape(kind, columns, len(rows))


def _kind(row: Mapping[str, Any], text_field: str) -> tuple[str, dict[str, str]]:
    if "input_ids" in row:
        return "tokens", {"tokens": "input_ids"}
    if "messages" in row:
        return "messages", {"messages": "messages"}
    if "completion" in row:
        return "prompt-completion", {"prompt": "prompt", "completion": "completion"}
    words = next((name for name in WORD_COLUMNS if isinstance(row.get(name), (list, tuple, np.ndarray))), None)
    tags = next((name for name in TAG_COLUMNS if isinstance(row.get(name), (list, tuple, np.ndarray))), None)
    if words and tags:
        return "words-tags", {"words": words, "tags": tags}
    text = next((name for name in (text_field, *TEXT_COLUMNS) if name in row), None)
    if text is None:
        raise DataError(
            f"row 0: its columns ({', '.join(map(str, row)) or 'none'}) are of no known shape: text is expected in "
            "'text' (or as dataset_text_field says), with a 'label' for classification; or 'prompt' and 'completion', "
            "'messages', or 'tokens' and 'tags'"
        )
    columns = {"text": text}
    pair = next((name for name in PAIR_COLUMNS if name in row), None)
    if pair is not None:
        columns["pair"] = pair
    label = next((name for name in LABEL_COLUMNS if name in row), None)
    return ("text", columns) if label is None else ("text-label", {**columns, "label": label})


# ---- one row ----


def _listed(row: Mapping[str, Any]) -> str:
    return "this one has " + (", ".join(map(str, row)) or "nothing")


def _check_text(row: Mapping[str, Any], columns: Mapping[str, str], number: int) -> None:
    for role in ("text", "pair", "prompt", "completion"):
        name = columns.get(role)
        if name is not None and not isinstance(row[name], str):
            raise DataError(f"row {number}: {name!r} must be a string, got {type(row[name]).__name__}")


def _check_messages(row: Mapping[str, Any], columns: Mapping[str, str], number: int) -> None:
    messages = row[columns["messages"]]
    if not isinstance(messages, (list, tuple)) or not messages:
        raise DataError(f"row {number}: 'messages' must be a list of messages, got {messages!r:.60}")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise DataError(f"row {number}: a message is {{'role': ..., 'content': ...}}, got {message!r:.60}")
        if message["role"] not in ROLES:
            raise DataError(f"row {number}: a role is one of {', '.join(ROLES)}, got {message['role']!r}")
        if not isinstance(message["content"], str):
            raise DataError(f"row {number}: the content of a message must be a string")
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"row {number}: a conversation needs a message of the assistant: that is what is learned")


def _check_tags(row: Mapping[str, Any], columns: Mapping[str, str], number: int) -> None:
    words, tags = row[columns["words"]], row[columns["tags"]]
    if not all(isinstance(word, str) for word in words):
        raise DataError(f"row {number}: {columns['words']!r} must be a list of strings")
    if len(words) != len(tags):
        raise DataError(f"row {number}: {len(words)} words but {len(tags)} tags; each word needs one")


def _check_nothing(row: Mapping[str, Any], columns: Mapping[str, str], number: int) -> None:
    pass


_CHECKS: dict[str, Callable[[Mapping[str, Any], Mapping[str, str], int], None]] = {
    "tokens": _check_nothing,
    "text": _check_text,
    "text-label": _check_text,
    "prompt-completion": _check_text,
    "messages": _check_messages,
    "words-tags": _check_tags,
}


# ---- labels ----


def _name(value: Any) -> str:
    """A class's name: 1, 1.0, True and "1" are the same one."""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def as_number(value: Any) -> float | None:
    """A label as a number, also where a csv file holds it as a string; None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _ordered(names: Counter[str]) -> tuple[str, ...]:
    """Classes in the order of their numbers: whole numbers by value, other names by the alphabet."""
    if all(name.lstrip("-").isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _with_labels(rows: Sequence[Mapping[str, Any]], columns: dict[str, str], task: str | None) -> RowShape:
    values = [row.get(columns["label"]) for row in rows]
    missing = next((number for number, value in enumerate(values) if value is None or value == ""), None)
    if missing is not None:
        raise DataError(f"row {missing}: there is no label in {columns['label']!r}")
    if isinstance(values[0], (list, tuple, np.ndarray)):
        raise DataError(f"row 0: {columns['label']!r} holds a list; a row of text has one label")
    numbers = [as_number(value) for value in values]
    all_numbers = all(number is not None for number in numbers)
    fractions = all_numbers and any(not number.is_integer() for number in numbers)  # type: ignore[union-attr]
    if task == "regression" and not all_numbers:
        wrong = numbers.index(None)
        raise DataError(f"row {wrong}: regression needs numbers, {columns['label']!r} holds {values[wrong]!r}")
    if task == "regression" or (fractions and task is None):
        return RowShape("text-label", columns, len(rows), span=(min(numbers), max(numbers)))  # type: ignore[type-var]
    counts = Counter(map(_name, values))
    if len(counts) > _MOST_CLASSES:
        raise DataError(
            f"{columns['label']!r} has {len(counts):,} different values, too many for classes; for numbers to be "
            "predicted choose the task regression"
        )
    return RowShape("text-label", columns, len(rows), _ordered(counts), dict(counts))


def _with_tags(rows: Sequence[Mapping[str, Any]], columns: dict[str, str]) -> RowShape:
    counts = Counter(_name(tag) for row in rows for tag in row[columns["tags"]])
    return RowShape("words-tags", columns, len(rows), _ordered(counts), dict(counts))
