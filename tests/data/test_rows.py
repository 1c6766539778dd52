"""The shapes of rows: told from the columns, reported, and wrong rows named."""

from __future__ import annotations

import pytest

from llmcore.data.rows import detect_rows
from llmcore.errors import DataError

SAY = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize(
    "rows, kind, task, report",
    [
        ([{"input_ids": [1, 2]}], "tokens", "causal-lm", "1 rows of tokens ('input_ids')"),
        ([{"text": "a"}, {"text": ""}], "text", "causal-lm", "2 rows of text ('text')"),
        (
            [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": 1}],
            *("text-label", "sequence-classification", "3 rows of text with a label ('text', 'label'): 0 1, 1 2"),
        ),
        (
            [{"sentence": "a", "label": "neg"}, {"sentence": "b", "label": "pos"}],
            *("text-label", "sequence-classification"),
            "2 rows of text with a label ('sentence', 'label'): neg 1, pos 1",
        ),
        (
            [{"text": "a", "score": 1.5}, {"text": "b", "score": -2}],
            *("text-label", "regression"),
            "2 rows of text with a label ('text', 'score'): numbers from -2 to 1.5",
        ),
        (
            [{"prompt": "a", "completion": "b"}],
            *("prompt-completion", "causal-lm", "1 rows of prompts with their completions ('prompt', 'completion')"),
        ),
        ([{"messages": SAY}], "messages", "causal-lm", "1 rows of conversations ('messages')"),
        (
            [{"tokens": ["a", "b"], "ner_tags": [0, 2]}],
            *("words-tags", "token-classification"),
            "1 rows of words with their tags ('tokens', 'ner_tags'): 0 1, 2 1",
        ),
    ],
)
def test_shapes(rows, kind, task, report):
    shape = detect_rows(rows)
    assert (shape.kind, shape.task, shape.render()) == (kind, task, report)


def test_labels_are_ordered_by_value_and_strings_of_a_csv_file_are_numbers():
    rows = [{"text": "a", "label": label} for label in ("10", "9", "9", "1")]
    shape = detect_rows(rows)
    assert shape.labels == ("1", "9", "10") and [shape.label_id(label) for label in ("10", 9, 1.0)] == [2, 1, 0]
    assert detect_rows(rows, task="regression").span == (1.0, 10.0)
    assert detect_rows([{"text": "a", "label": "0.5"}]).task == "regression"
    with pytest.raises(DataError, match="the label 7 is none of 1, 9, 10"):
        shape.label_id(7)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "the data set is empty"),
        (["text"], "row 0: a row is a dict, got str"),
        ([{"title": "a"}], r"row 0: its columns \(title\) are of no known shape"),
        ([{"text": "a"}, {"txet": "b"}], "row 1: there is no 'text'; row 0 has one .this one has txet."),
        ([{"text": "a"}, {"text": 3}], "row 1: 'text' must be a string, got int"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": None}], "row 1: there is no label in 'label'"),
        ([{"messages": []}], "row 0: 'messages' must be a list of messages"),
        (
            [{"messages": [{"role": "bot", "content": "x"}]}],
            "a role is one of system, user, assistant, tool, got 'bot'",
        ),
        ([{"messages": [{"role": "user"}]}], "a message is {'role': ..., 'content': ...}"),
        ([{"messages": SAY[:1]}], "needs a message of the assistant"),
        ([{"tokens": ["a"], "tags": [1, 2]}], "row 0: 1 words but 2 tags"),
        ([{"text": "a", "label": f"x{i}"} for i in range(1001)], "1,001 different values, too many for classes"),
    ],
)
def test_wrong_rows_are_named(rows, message):
    with pytest.raises(DataError, match=message):
        detect_rows(rows)


def test_regression_needs_numbers():
    with pytest.raises(DataError, match="row 1: regression needs numbers, 'label' holds 'good'"):
        detect_rows([{"text": "a", "label": 1}, {"text": "b", "label": "good"}], task="regression")
