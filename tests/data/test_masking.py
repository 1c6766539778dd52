"""Masks for masked language models: shares, whole words, what is never masked, and the same masks at the same place."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.data.collators import DataCollatorForLanguageModeling, DataCollatorForTokenClassification
from llmcore.data.loader import ExampleDataset, TokenLoader
from llmcore.data.vocabularies import byte_tokenizer, char_tokenizer
from llmcore.errors import ConfigError, DataError
from tests.training.bert import SPECIAL, WORDS, make_tokenizer

MASK = 4
TOKEN = {token: index for index, token in enumerate((*SPECIAL, *WORDS))}


def sentence(text: str) -> dict[str, list[int]]:
    return dict(make_tokenizer()(text))


def many(count: int = 400) -> list[dict[str, list[int]]]:
    random = np.random.default_rng(0)
    return [sentence(" ".join(random.choice(WORDS[:17], random.integers(2, 24)))) for _ in range(count)]


def test_shares_and_what_is_never_masked():
    examples, tokenizer = many(), make_tokenizer()
    batch = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)(examples)
    original = tokenizer.pad(examples, return_tensors="np")
    inputs, labels, ids = batch["input_ids"], batch["labels"], original["input_ids"]
    drawn = labels != -100
    eligible = ~np.isin(ids, range(len(SPECIAL)))
    assert not (drawn & ~eligible).any()  # [CLS], [SEP] and padding stay
    np.testing.assert_array_equal(labels[drawn], ids[drawn])
    np.testing.assert_array_equal(inputs[~drawn], ids[~drawn])
    share = drawn.sum() / eligible.sum()
    spread = 4 * np.sqrt(0.15 * 0.85 / eligible.sum())
    assert abs(share - 0.15) < spread < 0.03
    masked, same = inputs[drawn] == MASK, inputs[drawn] == ids[drawn]
    lucky = 1 / tokenizer.vocab_size  # a random token may be the same one, or the mask itself
    for found, expected in ((masked.mean(), 0.8 + 0.1 * lucky), (same.mean(), 0.1 + 0.1 * lucky)):
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / drawn.sum())
    assert batch["token_type_ids"].shape == ids.shape and batch["attention_mask"].dtype == np.int32


def test_other_shares():
    settings = dict(mlm_probability=0.5, mask_replace_prob=1.0, random_replace_prob=0.0)
    batch = DataCollatorForLanguageModeling(make_tokenizer(), **settings)(many(20))
    assert (batch["input_ids"][batch["labels"] != -100] == MASK).all()


@pytest.mark.parametrize("column", [None, "word_ids", "offset_mapping"])
def test_whole_words(column):
    tokenizer = make_tokenizer()
    options = {"return_offsets_mapping": True} if column else {}
    encoded = tokenizer("the cats walkly dogsing film", **options)
    example = {"input_ids": encoded["input_ids"]}
    if column is not None:
        example[column] = encoded.word_ids() if column == "word_ids" else encoded["offset_mapping"]
    # [CLS] the cat ##s walk ##ly dog ##s ##ing film [SEP]
    groups = [[1], [2, 3], [4, 5], [6, 7, 8], [9]]
    collator = DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True, mlm_probability=0.4)
    drawn = collator([example] * 300)["labels"] != -100
    assert drawn.shape == (300, 11) and not drawn[:, [0, 10]].any()
    for group in groups:
        assert (drawn[:, group].all(axis=1) == drawn[:, group].any(axis=1)).all()
        assert 0.25 < drawn[:, group[0]].mean() < 0.55  # a word of three tokens is drawn no more often than one of one
    plain = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4)([{"input_ids": encoded["input_ids"]}] * 300)
    assert ((plain["labels"][:, 2] != -100) != (plain["labels"][:, 3] != -100)).any()


def test_masks_are_a_function_of_the_place():
    examples = many(24)

    def batches(start=0, seed=7):
        collator = DataCollatorForLanguageModeling(make_tokenizer(), seed=seed)
        loader = TokenLoader(ExampleDataset(examples, collator), 4, seed=3)
        loader.seek(1, start)
        return [batch["input_ids"].tolist() for batch in loader]

    whole = batches()
    assert batches(start=8) == whole[2:] and batches(seed=8) != whole
    collator = DataCollatorForLanguageModeling(make_tokenizer())
    first, second = collator(examples[:4])["input_ids"], collator(examples[:4])["input_ids"]
    assert (first != second).any()  # without a loader each call draws anew


def test_special_tokens_mask_of_the_examples_counts():
    example = {"input_ids": [2, 5, 6, 7, 3], "special_tokens_mask": [1, 0, 1, 1, 1]}
    collator = DataCollatorForLanguageModeling(make_tokenizer(), mlm_probability=0.9)
    drawn = collator([example] * 50)["labels"] != -100
    assert drawn[:, 1].any() and not drawn[:, [0, 2, 3, 4]].any()


def test_token_classification_pads_labels():
    collator = DataCollatorForTokenClassification(make_tokenizer())
    batch = collator(
        [{"input_ids": [2, 5, 3], "labels": [-100, 1, -100]}, {"input_ids": [2, 3], "labels": [-100, -100]}]
    )
    assert batch["labels"].tolist() == [[-100, 1, -100], [-100, -100, -100]]
    with pytest.raises(DataError, match="3 input_ids but 1 labels"):
        collator([{"input_ids": [2, 5, 3], "labels": [1]}])


def test_mistakes():
    assert DataCollatorForLanguageModeling(byte_tokenizer()).mlm is False  # no mask token: a causal model's
    assert DataCollatorForLanguageModeling(make_tokenizer()).mlm is True
    with pytest.raises(ConfigError, match="whole_word_mask=True is for masked language models"):
        DataCollatorForLanguageModeling(byte_tokenizer(), whole_word_mask=True)
    tokenizer = char_tokenizer(["ab"])
    tokenizer.mask_token = "<|endoftext|>"
    with pytest.raises(ConfigError, match="marks neither their beginning nor"):
        DataCollatorForLanguageModeling(tokenizer, mlm=True, whole_word_mask=True)([{"input_ids": [1, 2]}])
