"""GPT-2's alphabet of printable characters for the 256 bytes, and how many bytes each token id stands for."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np


def _alphabet() -> dict[int, str]:
    """GPT-2's `bytes_to_unicode`: printable Latin-1 bytes are themselves, the other 68 are numbered from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 256 + 68))
    return {byte: chr(byte if byte in printable else next(others)) for byte in range(256)}


BYTE_TO_CHARACTER = _alphabet()

_FALLBACK_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def byte_lengths(specification: dict[str, Any], vocab_size: int) -> np.ndarray:
    """UTF-8 bytes of text per id, int32 (vocab_size,), from the parsed tokenizer.json.

    Exact, so that the lengths of a text's ids add up to its bytes, for byte-level tokenizers and for those with a
    token for every byte (`byte_fallback`), unless they normalise the text or put a space before it. For others it is
    the length of the token's own text: WordPiece's "##" and SentencePiece's space mark are accounted for, the spaces
    between words are not. Special tokens and ids without a token count 0.
    """
    model = specification["model"]
    parts = [specification.get("pre_tokenizer"), specification.get("decoder")]
    is_byte_level = _mentions(parts, "ByteLevel")
    marks_spaces = "▁" in json.dumps(parts, ensure_ascii=False)  # Metaspace, or a Replace that does its work
    prefix = model.get("continuing_subword_prefix") or ""
    alphabet = set(BYTE_TO_CHARACTER.values())

    def length(token: str) -> int:
        if is_byte_level and alphabet.issuperset(token):
            return len(token)
        if model.get("byte_fallback") and _FALLBACK_TOKEN.fullmatch(token):
            return 1
        if marks_spaces:
            token = token.replace("▁", " ")
        return len((token.removeprefix(prefix)).encode())

    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: [token, score] pairs
        vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
    lengths = np.zeros(vocab_size, np.int32)
    for token, i in vocabulary.items():
        lengths[i] = length(token)
    for added in specification.get("added_tokens", []):  # matched in the raw text, before any byte-level mapping
        lengths[added["id"]] = 0 if added["special"] else len(added["content"].encode())
    return lengths


def _mentions(part: Any, kind: str) -> bool:
    """Whether a (possibly nested) component of tokenizer.json has the type `kind`."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_mentions(value, kind) for value in part.values())
    return isinstance(part, list) and any(_mentions(value, kind) for value in part)
