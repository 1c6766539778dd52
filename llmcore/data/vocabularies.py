"""How a tokenizer is made: byte-level BPE trained on text, bytes, characters, or GPT-2's published files.

All four are `tokenizers` tokenizers underneath, and lossless: decode(encode(text)) == text for every valid text.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from llmcore.data.byte_level import BYTE_TO_CHARACTER
from llmcore.data.readers import Document, repair
from llmcore.data.tokenizer import END_OF_TEXT, Tokenizer
from llmcore.errors import ConfigError, DataError

# Counting words needs memory for every distinct one, and merges do not change any more after far less text than this.
TRAINING_CHARACTERS = 1 << 30

logger = logging.getLogger("llmcore")


def train_bpe(
    texts: Iterable[str | Document],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    max_characters: int = TRAINING_CHARACTERS,
) -> Tokenizer:
    """Train a byte-level BPE as GPT-2's, from an iterator, in memory bounded by the number of distinct words.

    Id 0 is `<|endoftext|>`, then come the 256 bytes, then the merges. At most `max_characters` of text are used. A
    small text gives fewer than `vocab_size` entries, which is logged. The same text gives the same vocabulary. Raises
    ConfigError for a vocabulary that cannot hold the bytes, DataError where there is no text.
    """
    smallest = 257
    if vocab_size < smallest:
        raise ConfigError(
            f"a byte-level vocabulary needs at least {smallest} entries (256 bytes and {END_OF_TEXT}), got "
            f"{vocab_size}."
        )
    backend = _byte_level(models.BPE(), use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    counter = LimitedTexts(texts, max_characters)
    backend.train_from_iterator(counter, trainer)
    if counter.characters == 0:
        raise DataError("there was no text to train a tokenizer on.")
    if backend.get_vocab_size() < vocab_size:
        logger.warning(
            "the text (%s characters) repeats too little for %s entries: the vocabulary has %s.",
            f"{counter.characters:,}",
            f"{vocab_size:,}",
            f"{backend.get_vocab_size():,}",
        )
    return Tokenizer(backend, eos_token=END_OF_TEXT)


def byte_tokenizer() -> Tokenizer:
    """257 entries: the id of a byte is its value, 256 is `<|endoftext|>`. Needs no training text."""
    vocabulary = {BYTE_TO_CHARACTER[byte]: byte for byte in range(256)}
    backend = _byte_level(models.BPE(vocab=vocabulary, merges=[]), use_regex=False)
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend, eos_token=END_OF_TEXT)


def char_tokenizer(texts: Iterable[str | Document]) -> Tokenizer:
    """One id per character that occurs in `texts`, in code-point order.

    After them come 256 bytes, which spell the characters that `texts` did not have, and `<|endoftext|>` as the last id.
    Raises DataError where there is no text.
    """
    characters: set[str] = set()
    for text in _strings(texts):
        characters.update(text)
    if not characters:
        raise DataError("there was no text to take the characters from.")
    entries = [*sorted(characters), *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[], byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend, eos_token=END_OF_TEXT)


def gpt2_tokenizer(vocab_json: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Tokenizer:
    """GPT-2's tokenizer from its published files: vocab.json (encoder.json) and merges.txt (vocab.bpe).

    Raises DataError where they are missing, too large, or no such files.
    """
    from llmcore.data.tokenizer_files import read_text

    for path in (vocab_json, merges):
        read_text(Path(path))  # the sentences for what is missing, too large or not text
    try:
        model = models.BPE.from_file(os.fspath(vocab_json), os.fspath(merges))
    except Exception as error:
        raise DataError(f"{vocab_json} and {merges} are not a vocabulary and its merges: {error}") from None
    backend = _byte_level(model, use_regex=True)
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(
        backend, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, unk_token=END_OF_TEXT, model_max_length=1024
    )


def _byte_level(model: models.Model, use_regex: bool) -> tokenizers.Tokenizer:
    """`use_regex`: GPT-2's division into words, over which no merge runs."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


class LimitedTexts:
    """Iterates over the texts up to a number of characters, and counts them."""

    def __init__(self, texts: Iterable[str | Document], max_characters: int) -> None:
        self._texts = texts
        self._max_characters = max_characters
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in _strings(self._texts):
            text = text[: self._max_characters - self.characters]
            self.characters += len(text)
            if text:
                yield text
            if self.characters >= self._max_characters:
                return


def _strings(texts: Iterable[str | Document]) -> Iterator[str]:
    if isinstance(texts, str):
        raise TypeError("expected an iterable of texts, got one string; put it into a list")
    for text in texts:
        yield repair(text.text if isinstance(text, Document) else text)[0]
