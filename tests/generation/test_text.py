"""Pieces of text: whole characters, and never a part of a stop string, wherever the tokens' boundaries lie."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tokenizers

from llmcore.data import byte_tokenizer, train_bpe
from llmcore.generation.text import Detokenizer, RowText, StopStrings

TEXT = "Grüße, 世界! 🙂🙂 naïve \u00a0 Ωmega 한국어\n\tdef f(x):\n    return '🤖'"


def pieces_of(tokenizer, ids, context=()) -> list[str]:
    detokenizer = Detokenizer(tokenizer, context)
    return [detokenizer.push(token) for token in ids] + [detokenizer.finish()]


@pytest.mark.parametrize("make", [byte_tokenizer, lambda: train_bpe([TEXT, "hello world"] * 5, 300)])
def test_pieces_are_whole_characters_and_add_up(make):
    tokenizer = make()
    ids = tokenizer.encode(TEXT * 3).tolist()
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == TEXT * 3
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) > len(TEXT)  # it does stream


@pytest.mark.parametrize("seed", range(30))
def test_any_bytes_give_what_decoding_at_once_gives(seed):
    tokenizer = byte_tokenizer()
    # Lead bytes, continuation bytes and ASCII in a mix that often breaks off in the middle of a character.
    choices = [0x41, 0x20, 0xC3, 0xA9, 0xE4, 0xB8, 0x96, 0xF0, 0x9F, 0x99, 0x82, 0xFF, 256]
    ids = random.Random(seed).choices(choices, k=120)
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_begun_in_the_prompt_is_finished():
    tokenizer = byte_tokenizer()
    assert pieces_of(tokenizer, [0xA9, 0x21], context=[0x41, 0xC3]) == ["é", "!", ""]


def test_spaces_and_byte_fallback_of_sentencepiece_vocabularies():
    vocabulary = {"<unk>": 0, "▁Hi": 1, "▁there": 2, "!": 3}
    for byte in "世🙂".encode():
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    parts = [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Metaspace()]
    backend.decoder = tokenizers.decoders.Sequence([*parts, tokenizers.decoders.Fuse()])
    fallback = [vocabulary[f"<0x{byte:02X}>"] for byte in "世🙂".encode()]
    ids = [2, 2, *fallback * 6, 3, 1]
    pieces = pieces_of(backend, ids, context=[1])
    assert "".join(pieces) == " there there" + "世🙂" * 6 + "! Hi"  # the space stays, as there is text before
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces_of(backend, [1, 2])[:2] == ["Hi", " there"]


def feed(stop_strings: list[str], parts: list[str]) -> tuple[list[str], bool]:
    stop = StopStrings(stop_strings)
    out = []
    for part in parts:
        out.append(stop.push(part))
        if stop.stopped:
            return out, True
    return [*out, stop.finish()], False


def reference(stop_strings: list[str], text: str) -> tuple[str, bool]:
    """Character by character: stop as soon as the text so far ends with a stop string, cut the longest such."""
    for end in range(1, len(text) + 1):
        ending = [string for string in stop_strings if text[:end].endswith(string)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@pytest.mark.parametrize("seed", range(200))
def test_stop_strings_do_not_depend_on_boundaries(seed):
    source = random.Random(seed)
    text = "".join(source.choices("ab\n", k=25))
    stop_strings = ["".join(source.choices("ab\n", k=source.randint(1, 5))) for _ in range(source.randint(1, 3))]
    parts, rest = [], text
    while rest:
        size = source.randint(0, 8)
        parts.append(rest[:size])
        rest = rest[size:]
    out, stopped = feed(stop_strings, parts)
    assert ("".join(out), stopped) == reference(stop_strings, text)
    # Nothing that was given out had to be taken back: at every moment it is a beginning of the final text.
    given = ""
    for piece in out:
        given += piece
        assert reference(stop_strings, text)[0].startswith(given)


def test_text_is_held_back_only_as_long_as_it_may_be_a_stop_string():
    assert feed(["\n\nUser:"], ["Hi", "\n", "\nUs", "ers", " win"]) == (["Hi", "", "", "\n\nUsers", " win", ""], False)
    assert feed(["\n\nUser:"], ["Hi\n", "\nUser", ": no"]) == (["Hi", "", ""], True)


def test_row_text_joins_both():
    tokenizer = byte_tokenizer()
    row = RowText(tokenizer, tokenizer.encode("Q: é"), ["世!"])
    assert row.prompt_text == "Q: é"
    taken = []
    for token in tokenizer.encode("ab世c世!d"):
        stopped = row.push(token)
        taken.append(row.take())
        if stopped:
            break
    assert stopped and row.text == "".join(taken) == "ab世c"
    assert taken[:5] == ["a", "b", "", "", ""]  # the character could begin the stop string


def test_half_a_character_at_the_end_is_given_out_when_the_row_ends():
    tokenizer = byte_tokenizer()
    row = RowText(tokenizer, np.array([65]), [])
    row.push(0xE4)
    assert row.text == ""
    assert not row.finish()
    assert row.text == tokenizer.decode([0xE4]) == "\ufffd"
