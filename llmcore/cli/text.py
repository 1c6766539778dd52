"""What the verbs that read raw text share: its size, standard input, and which vocabulary suits it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmcore.cli.output import spell_bytes

# text of at least so many bytes -> entries of the vocabulary. Small texts repeat too little to learn rare merges from,
# and every entry costs a row of the embedding; below the first line bytes alone do as well.
_VOCABULARIES = (
    (1_000_000_000, 32_768),
    (100_000_000, 16_384),
    (20_000_000, 8_192),
    (2_000_000, 4_096),
    (200_000, 1_024),
)
_GZIP_FACTOR = 3  # text compresses to a third or less


@dataclasses.dataclass(frozen=True)
class VocabularyChoice:
    """Which tokenizer to use: "bpe", "byte", "char" or a folder; `vocab_size` counts for "bpe" only."""

    kind: str
    vocab_size: int
    reason: str


def text_bytes(sources: Sequence[str]) -> int:
    """Size of the text in `sources`, compressed files estimated. Raises DataError for a source that does not exist."""
    from llmcore.data.corpus import standard_library_files
    from llmcore.data.sources import STDLIB, expand_sources

    total = 0
    for source in expand_sources(list(sources)):
        if source == STDLIB:
            total += sum(os.path.getsize(path) for _, path in standard_library_files())
        else:
            total += os.path.getsize(source) * (_GZIP_FACTOR if source.endswith(".gz") else 1)
    return total


def choose_vocabulary(tokenizer: str | None, vocab_size: int | None, sources: Sequence[str]) -> VocabularyChoice:
    """The tokenizer that the user named, or the one that suits the size of the text."""
    if tokenizer not in (None, "bpe"):
        return VocabularyChoice(str(tokenizer), vocab_size or 0, "as asked")
    size = text_bytes(sources)
    suited = next((entries for least, entries in _VOCABULARIES if size >= least), 0)
    because = f"because the text has {spell_bytes(size)}"
    if tokenizer is None and vocab_size is None and not suited:
        return VocabularyChoice("byte", 257, f"one token per byte, {because}")
    entries = vocab_size or suited or _VOCABULARIES[-1][1]
    return VocabularyChoice(
        "bpe", entries, f"byte-level BPE with {entries:,} entries, {'as asked' if vocab_size else because}"
    )


@contextmanager
def standard_input_as_file(sources: Sequence[str], folder: Path) -> Iterator[list[str]]:
    """`sources` with "-" replaced by a temporary file in `folder` that holds standard input.

    A pipe can be read only once, but its text is needed twice: for the vocabulary and for the tokens.
    """
    if "-" not in sources:
        yield list(sources)
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "stdin.txt"
    try:
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield [str(path) if source == "-" else source for source in sources]
    finally:
        path.unlink(missing_ok=True)
