"""Rows of text become rows of tokens."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.errors import ConfigError, DataError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.text_examples import is_text, tokenize_rows


class Letters:
    """a = 1, b = 2, ...; the end is 0."""

    eos_token_id = 0

    def encode(self, text):
        return np.array([ord(letter) - 96 for letter in text], np.int32)


def tokenize(rows, context=None, **settings):
    return tokenize_rows(rows, Letters(), TrainingArguments(**settings), context)


def test_text_ends_with_the_end_token_and_it_is_trained_on():
    assert tokenize([{"text": "abc"}])[0] == {"input_ids": [1, 2, 3, 0], "labels": [1, 2, 3, 0]}


def test_completion_only():
    row = {"prompt": "ab", "completion": "cd"}
    assert tokenize([row])[0] == {"input_ids": [1, 2, 3, 4, 0], "labels": [-100, -100, 3, 4, 0]}
    assert tokenize([row], completion_only_loss=False)[0]["labels"] == [1, 2, 3, 4, 0]
    with pytest.raises(ConfigError, match="'prompt' and 'completion'"):
        tokenize([{"text": "abc"}], completion_only_loss=True)


def test_rows_are_cut_at_the_shorter_of_max_length_and_context():
    rows = [{"text": "abcdef"}, {"text": "ab"}, {"text": ""}]
    cut = tokenize(rows, max_length=4)
    assert [row["input_ids"] for row in cut] == [[1, 2, 3, 4], [1, 2, 0]]
    assert (cut.truncated, cut.dropped_tokens, len(cut)) == (1, 3, 2)
    assert len(tokenize(rows, context=3)[0]["input_ids"]) == 3
    with pytest.raises(DataError, match="two tokens or more"):
        tokenize([{"text": ""}])


def test_packing_keeps_documents_apart():
    rows = [{"text": "abc"}, {"text": "d"}, {"text": "efghi"}]
    packed = tokenize(rows, packing=True, max_length=6)
    assert packed.rows == [
        {"input_ids": [5, 6, 7, 8, 9, 0], "labels": [-100, 6, 7, 8, 9, 0], "position_ids": [0, 1, 2, 3, 4, 5]},
        {"input_ids": [1, 2, 3, 0, 4, 0], "labels": [-100, 2, 3, 0, -100, 0], "position_ids": [0, 1, 2, 3, 0, 1]},
    ]
    completions = tokenize([{"prompt": "ab", "completion": "c"}] * 2, packing=True, max_length=9).rows
    assert completions[0]["labels"] == [-100, -100, 3, 0, -100, -100, 3, 0]


def test_packing_may_join_and_cut():
    rows = [{"text": "abc"}, {"text": "def"}]
    packed = tokenize(rows, packing=True, packing_strategy="wrapped", max_length=3)
    assert [row["input_ids"] for row in packed] == [[1, 2, 3], [0, 4, 5]]
    assert packed[1]["labels"] == [0, 4, 5] and packed.dropped_tokens == 2
    with pytest.raises(DataError, match="at least one block of max_length=9"):
        tokenize([{"text": "ab"}], packing=True, packing_strategy="wrapped", max_length=9)


def test_which_datasets_are_text():
    assert is_text([{"text": "a"}], "text") and is_text([{"prompt": "a", "completion": "b"}], "text")
    assert is_text([{"body": "a"}], "body")
    for other in ([], [{"input_ids": [1], "text": "a"}], [{"body": "a"}], iter([{"text": "a"}]), [[1, 2]]):
        assert not is_text(other, "text")


def test_missing_tokenizer_and_column_are_sentences():
    with pytest.raises(ConfigError, match="give processing_class="):
        tokenize_rows([{"text": "a"}], None, TrainingArguments(), None)
    with pytest.raises(DataError, match="row 0: 'text' must be a string, got int"):
        tokenize([{"text": 3}])
