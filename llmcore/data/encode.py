"""One text or a pair of texts -> a row of tokens with the special ones around them, cut to a length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tokenizers

from llmcore.data.readers import repair
from llmcore.errors import ConfigError

STRATEGIES = ("longest_first", "only_first", "only_second")


def is_single(text: Any, is_split_into_words: bool) -> bool:
    """Whether `text` is one text, not a list of them; a text may itself be a list of words."""
    if isinstance(text, str):
        return True
    return is_split_into_words and len(text) > 0 and isinstance(text[0], str)


def check_truncation(truncation: bool | str) -> str:
    """transformers' `truncation` argument -> one of STRATEGIES. Raises ConfigError."""
    strategy = "longest_first" if truncation is True or truncation in (False, "do_not_truncate") else truncation
    if strategy not in STRATEGIES:
        raise ConfigError(f"truncation must be True, False or one of {', '.join(STRATEGIES)}, got {truncation!r}.")
    return str(strategy)


def encode_rows(
    backend: tokenizers.Tokenizer,
    texts: Sequence[Any],
    pairs: Sequence[Any] | None,
    is_split_into_words: bool,
    add_special_tokens: bool,
    limit: int | None,
    strategy: str,
    side: str,
) -> list[tokenizers.Encoding]:
    """The rows of `texts`, each with its partner of `pairs` if there are any, of at most `limit` tokens.

    Raises TypeError for anything but strings (or lists of words), ConfigError where a row cannot be cut to `limit`.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise ConfigError(f"every text needs its text_pair: got {len(texts)} texts and {len(pairs)} pairs.")
    firsts = _encode(backend, texts, is_split_into_words)
    seconds = [None] * len(firsts) if pairs is None else _encode(backend, pairs, is_split_into_words)
    added = backend.num_special_tokens_to_add(pairs is not None) if add_special_tokens else 0
    rows = []
    for first, second in zip(firsts, seconds, strict=True):
        if limit is not None:
            _cut(first, second, limit - added, strategy, side)
        rows.append(backend.post_process(first, second, add_special_tokens))
    return rows


def _encode(backend: tokenizers.Tokenizer, texts: Sequence[Any], is_split_into_words: bool) -> list[Any]:
    cleaned: list[Any] = []
    for text in texts:
        if is_split_into_words:
            if isinstance(text, str) or not all(isinstance(word, str) for word in text):
                raise TypeError("with is_split_into_words=True a text is a list of words")
            cleaned.append([repair(word)[0] for word in text])
        elif not isinstance(text, str):
            raise TypeError(f"a tokenizer takes strings, got {type(text).__name__}")
        else:
            cleaned.append(repair(text)[0])
    return backend.encode_batch(cleaned, is_pretokenized=is_split_into_words, add_special_tokens=False)


def _cut(first: Any, second: Any, room: int, strategy: str, side: str) -> None:
    """Cuts in place, before the special tokens are added, so that those stay."""
    lengths = [len(first), 0 if second is None else len(second)]
    surplus = sum(lengths) - max(room, 0)
    if surplus <= 0:
        return
    if second is None:
        lengths[0] = max(room, 0)
    elif strategy == "only_first":
        lengths[0] -= surplus
    elif strategy == "only_second":
        lengths[1] -= surplus
    else:  # longest_first: the shorter text stays whole if it can, else each gets half; the longer has the odd one
        longer = 0 if lengths[0] > lengths[1] else 1
        lengths[1 - longer] = min(lengths[1 - longer], max(room, 0) // 2)
        lengths[longer] = max(room, 0) - lengths[1 - longer]
    if second is not None and strategy != "longest_first" and min(lengths) < 1:
        raise ConfigError(f"truncation={strategy!r} cannot cut this pair to {room} tokens; use truncation=True.")
    for encoding, length in ((first, lengths[0]), (second, lengths[1])):
        if encoding is not None:
            encoding.truncate(length, direction=side)
