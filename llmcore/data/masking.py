"""Which tokens a masked language model has to guess, and what stands in their place.

Devlin et al. 2018, arXiv:1810.04805, section 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore.errors import ConfigError
from llmcore.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from llmcore.data.tokenizer import Tokenizer


# How subword vocabularies mark a token that goes on with the word before it, or one that begins a word.
_CONTINUES = "##"
_BEGINS = ("\u0120", "\u2581")  # byte-level BPE's space, SentencePiece's


def mask_tokens(
    input_ids: np.ndarray,
    words: np.ndarray,
    tokenizer: Tokenizer,
    random: np.random.Generator,
    probability: float,
    mask_replace: float,
    random_replace: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, labels), both (B, T) int32: the words that were drawn are replaced, their ids are the labels.

    `words` (B, T) numbers the words of each row from 0; -1 is never masked. A word is drawn with `probability`, all
    of its tokens at once; each of those becomes the mask token with `mask_replace`, a token of the vocabulary with
    `random_replace`, and stays otherwise.
    """
    rows, length = input_ids.shape
    draws = random.random((rows, length))  # one number per possible word
    drawn = np.take_along_axis(draws, np.maximum(words, 0), axis=1) < probability
    drawn &= words >= 0
    labels = np.where(drawn, input_ids, IGNORE_INDEX).astype(np.int32)
    fate = random.random((rows, length))
    others = random.integers(0, tokenizer.vocab_size, (rows, length), dtype=np.int64)
    masked = np.where(drawn & (fate < mask_replace), tokenizer.mask_token_id, input_ids)
    swapped = drawn & (fate >= mask_replace) & (fate < mask_replace + random_replace)
    return np.where(swapped, others, masked).astype(np.int32), labels


def every_token(input_ids: np.ndarray, special: np.ndarray) -> np.ndarray:
    """`words` for `mask_tokens` where every token stands for itself: (B, T)."""
    return np.where(special, -1, np.arange(input_ids.shape[1])[None, :])


def whole_words(input_ids: np.ndarray, special: np.ndarray, continues: np.ndarray) -> np.ndarray:
    """`words` for `mask_tokens` from `continues` (V,): whether an id goes on with the word before it. (B, T)"""
    begins = ~continues[input_ids]
    begins[:, 1:] |= special[:, :-1]  # what follows a special token begins a word
    numbers = np.cumsum(begins, axis=1) - 1
    return np.where(special, -1, np.maximum(numbers, 0))


def words_of(column: Any, length: int) -> np.ndarray:
    """`words` of one row from its `word_ids`, None for what is no word: (length,), -1 beyond its end."""
    words = np.full(length, -1, np.int64)
    given = [-1 if word is None else int(word) for word in column]
    words[: len(given)] = given
    return words


def words_of_offsets(offsets: Any, special: np.ndarray) -> np.ndarray:
    """`words` of one row from its `offset_mapping`: a token that begins where the last one ended goes on with it."""
    words, number, end = np.full(len(special), -1, np.int64), -1, -1
    for index, (start, stop) in enumerate(offsets):
        if special[index]:
            end = -1
            continue
        number += start != end
        words[index], end = number, stop
    return words


def continuation_table(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) bool: whether each id goes on with the word before it. Raises ConfigError for a vocabulary without marks."""
    vocabulary = tokenizer.get_vocab()
    continued = [index for token, index in vocabulary.items() if token.startswith(_CONTINUES) and len(token) > 2]
    begun = [index for token, index in vocabulary.items() if token.startswith(_BEGINS)]
    if not continued and not begun:
        raise ConfigError(
            "whole_word_mask=True needs to know the words, and this vocabulary marks neither their beginning nor "
            "their continuation: give every example its word_ids (or its offset_mapping)"
        )
    table = np.full(tokenizer.vocab_size, not continued)
    table[continued if continued else begun] = bool(continued)
    return table
