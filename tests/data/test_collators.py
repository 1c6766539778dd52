"""Batches: padding is masked by position, never by id."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.data.collators import DataCollatorForLanguageModeling, DataCollatorWithPadding, default_data_collator
from llmcore.data.vocabularies import byte_tokenizer
from llmcore.errors import ConfigError, DataError

EOS = 256


@pytest.fixture
def tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token  # what GPT-2 users write
    return tokenizer


def test_the_end_of_text_is_learned_although_it_is_the_pad_token(tokenizer):
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": [1, 2, EOS]}, {"input_ids": [3, EOS]}])
    assert batch["input_ids"].tolist() == [[1, 2, EOS], [3, EOS, EOS]]
    assert batch["labels"].tolist() == [[1, 2, EOS], [3, EOS, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_left_padding_multiples_and_bare_lists(tokenizer):
    tokenizer.padding_side = "left"
    batch = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=4)([[1, 2], np.array([3])])
    assert batch["labels"].tolist() == [[-100, -100, 1, 2], [-100, -100, -100, 3]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]


def test_given_labels_and_masks_stay(tokenizer):
    examples = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [0, 1, 1]}]
    examples.append({"input_ids": [4], "labels": [4], "attention_mask": [1]})
    batch = DataCollatorForLanguageModeling(tokenizer)(examples)
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 0, 0]]
    assert examples[0]["labels"] == [-100, 2, 3]  # the examples themselves are not touched
    with pytest.raises(DataError, match="1 input_ids but 2 labels"):
        DataCollatorForLanguageModeling(tokenizer)([{"input_ids": [1], "labels": [1, 2]}])


def test_with_padding_stacks_the_other_fields(tokenizer):
    examples = [{"input_ids": [1, 2], "label": 1, "text": "x"}, {"input_ids": [3], "label": 0, "text": "y"}]
    batch = DataCollatorWithPadding(tokenizer)(examples)
    assert sorted(batch) == ["attention_mask", "input_ids", "labels"]
    assert batch["input_ids"].tolist() == [[1, 2], [3, EOS]] and batch["labels"].tolist() == [1, 0]
    batch = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=3)(examples)
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0]]


def test_equal_to_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.DataCollatorWithPadding(
        transformers.AutoTokenizer.from_pretrained(tmp_path), return_tensors="np"
    )
    examples = [
        {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "label": 2},
        {"input_ids": [4], "attention_mask": [1], "label": 0},
    ]
    ours = DataCollatorWithPadding(tokenizer)(examples)
    for name, array in theirs(examples).items():
        assert np.array_equal(ours[name], array), name


def test_default_collator():
    batch = default_data_collator(
        [
            {"x": [1, 2], "score": 0.5, "label_ids": 1, "name": "a"},
            {"x": [3, 4], "score": 1, "label_ids": 0, "name": None},
        ]
    )
    assert batch["x"].tolist() == [[1, 2], [3, 4]] and batch["labels"].tolist() == [1, 0]
    assert batch["score"].dtype == np.float32 and batch["x"].dtype == np.int32 and "name" not in batch
    with pytest.raises(DataError, match="rows of 1 to 2 entries"):
        default_data_collator([{"x": [1]}, {"x": [1, 2]}])
    with pytest.raises(DataError, match="example 1 has"):
        default_data_collator([{"x": 1}, {"y": 1}])


def test_mistakes(tokenizer):
    with pytest.raises(ConfigError, match="mlm=True needs a tokenizer with a mask token"):
        DataCollatorForLanguageModeling(tokenizer, mlm=True)
    for settings in ({"mlm_probability": 1.0}, {"mask_replace_prob": 0.9, "random_replace_prob": 0.2}):
        with pytest.raises(ConfigError, match="|".join(settings)):
            DataCollatorForLanguageModeling(tokenizer, **settings)
    with pytest.raises(ConfigError, match='return_tensors="np"'):
        DataCollatorForLanguageModeling(tokenizer, return_tensors="pt")
    with pytest.raises(DataError, match="at least one example"):
        DataCollatorWithPadding(tokenizer)([])
    with pytest.raises(DataError, match="no input_ids, only .'text'."):
        DataCollatorWithPadding(tokenizer)([{"text": "x"}])
