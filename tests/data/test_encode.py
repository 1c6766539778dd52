"""Pairs of texts, words, types of tokens and cutting: equal to transformers, call by call."""

from __future__ import annotations

import numpy as np
import pytest

from llmcore.errors import ConfigError
from tests.training.bert import WORDS, make_tokenizer


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    from llmcore.data.tokenizer import Tokenizer

    return Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def texts(random: np.random.Generator, count: int) -> list[str]:
    return [" ".join(random.choice(WORDS[:17] + ["cats", "xyz"], random.integers(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("truncation", [False, True, "only_first", "only_second"])
def test_equal_to_transformers(both, truncation):
    ours, theirs = both
    random = np.random.default_rng(0)
    for max_length in (14, 15, 17, 30):
        first, second = texts(random, 4), texts(random, 4)
        options = dict(padding=True, truncation=truncation, max_length=max_length, return_special_tokens_mask=True)
        calls = [(first, second)] if truncation in ("only_first", "only_second") else [(first,), (first, second)]
        for call in calls:
            try:
                expected = theirs(*call, **options)
            except Exception:  # where the text to be cut is too short
                with pytest.raises(ConfigError, match="cannot cut this pair"):
                    ours(*call, **options)
                continue
            actual = ours(*call, **options)
            assert actual == dict(expected)
    single = ours("the cats", "a dog")
    assert single == dict(theirs("the cats", "a dog"))


def test_words(both):
    ours, theirs = both
    rows = [["the", "cats", "walkly"], ["dog"]]
    actual, expected = ours(rows, is_split_into_words=True), theirs(rows, is_split_into_words=True)
    assert actual == dict(expected)
    assert [actual.word_ids(row) for row in (0, 1)] == [expected.word_ids(row) for row in (0, 1)]
    assert actual.word_ids(0) == [None, 0, 1, 1, 2, 2, None]
    assert ours(rows[0], is_split_into_words=True)["input_ids"] == actual["input_ids"][0]
    with_offsets = ours("the cats", return_offsets_mapping=True)
    assert with_offsets["offset_mapping"] == theirs("the cats", return_offsets_mapping=True)["offset_mapping"]


def test_special_tokens_are_known_by_name(both):
    ours, theirs = both
    for kind in ("mask", "cls", "sep", "pad", "unk"):
        assert getattr(ours, f"{kind}_token_id") == getattr(theirs, f"{kind}_token_id") is not None
    assert ours.model_input_names == theirs.model_input_names


def test_mistakes(both):
    ours, _ = both
    with pytest.raises(ConfigError, match="2 texts and 1 pairs"):
        ours(["a", "b"], ["c"])
    with pytest.raises(ConfigError, match="truncation must be"):
        ours("a", "b", truncation="first")
    with pytest.raises(TypeError, match="a text is a list of words"):
        ours([["a", 3]], is_split_into_words=True)
    with pytest.raises(ConfigError, match="word_ids needs a call"):
        ours("a", return_token_type_ids=False).word_ids()
