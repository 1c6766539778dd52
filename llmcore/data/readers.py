"""Files -> documents, one at a time, in bounded memory.

A text file is one document; in a JSON Lines file every line is one (its field `text`); both may be gzipped. Text is
what the bytes say: line endings and NULs stay, a byte order mark goes, invalid UTF-8 and lone surrogates become U+FFFD
and are counted. UTF-16 and UTF-32 are recognised by their byte order mark.

A document of more than SECTION_THRESHOLD characters is cut into sections of at most SECTION_CHARACTERS, after an empty
line where there is one, else after a line, else after a space. Each section then is a document of its own. Otherwise a
corpus of one large file (a book, a concatenated dump) could not be split into training and validation text, nor be read
in bounded memory. The cuts depend only on the text before them, so appending to a file does not move them. The sections
joined are the text.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO, Literal, cast

from llmcore.data.sources import JSONL_SUFFIXES, STDIN, STDLIB, expand_sources, suffix_of
from llmcore.errors import DataError

SECTION_THRESHOLD = 256 * 1024
SECTION_CHARACTERS = 32 * 1024

_BLOCK_BYTES = 1 << 20
_LINE_BYTES = 1 << 29  # a longer JSON line is refused: it would have to be in memory three times over
_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd".encode()
_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


@dataclass(frozen=True)
class Document:
    """A text and where it came from: a path, "path:line" in JSON Lines, "stdlib/json/decoder.py"."""

    text: str
    source: str


@dataclass
class ReadStatistics:
    """What reading changed or left out. Handed in by the caller, counted up while the documents are consumed."""

    files: int = 0
    replaced_characters: int = 0
    skipped_lines: int = 0
    empty_documents: int = 0


def read_documents(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    text_field: str = "text",
    *,
    on_error: Literal["raise", "skip"] = "raise",
    section_characters: int | None = SECTION_CHARACTERS,
    section_threshold: int = SECTION_THRESHOLD,
    statistics: ReadStatistics | None = None,
) -> Iterator[Document]:
    """Read every document of `sources` (see `sources.expand_sources`) in a fixed order.

    `on_error="skip"` counts broken JSON lines in `statistics` instead of raising. `section_characters=None` never cuts
    a document (it then has to fit into memory). Empty documents are left out and counted. Raises DataError naming file
    and line.
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
    statistics = ReadStatistics() if statistics is None else statistics
    files = expand_sources(sources)
    return _read_files(files, text_field, on_error == "skip", section_characters, section_threshold, statistics)


def _read_files(
    files: list[str],
    text_field: str,
    skip_broken: bool,
    section_characters: int | None,
    section_threshold: int,
    statistics: ReadStatistics,
) -> Iterator[Document]:
    for name, pieces in _texts(files, text_field, skip_broken, statistics):
        sections = (
            cut_sections(pieces, section_characters, section_threshold) if section_characters else ["".join(pieces)]
        )
        for section in sections:
            if section and not section.isspace():
                yield Document(section, name)
            else:
                statistics.empty_documents += 1


def _texts(
    files: list[str], text_field: str, skip_broken: bool, statistics: ReadStatistics
) -> Iterator[tuple[str, Iterable[str]]]:
    """(source, pieces of its text) of every document; use the pieces up before asking for the next."""
    for file in files:
        if file == STDLIB:
            from llmcore.data.corpus import standard_library_files

            for name, path in standard_library_files():
                with _open(path) as stream:
                    statistics.files += 1
                    yield name, _decode(stream, name, statistics)
            continue
        statistics.files += 1
        name = "<stdin>" if file == STDIN else file
        with _open(file) as stream:
            if suffix_of(file) in JSONL_SUFFIXES or (file == STDIN and _looks_like_jsonl(stream)):
                for number, text in _json_lines(stream, name, text_field, skip_broken, statistics):
                    yield f"{name}:{number}", [text]
            else:
                yield name, _decode(stream, name, statistics)


@contextlib.contextmanager
def _open(file: str) -> Iterator[BufferedReader]:
    if file == STDIN:
        yield cast(BufferedReader, sys.stdin.buffer)
        return
    if not os.path.isfile(file):
        raise DataError(f"{file} is not a regular file.")  # a FIFO would wait for ever
    try:
        stream = gzip.open(file, "rb") if file.lower().endswith(".gz") else open(file, "rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    with stream:
        yield cast(BufferedReader, stream)


@contextlib.contextmanager
def _read_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a whole gzip file ({error}); fetch or pack it again.") from error
    except OSError as error:
        raise DataError(f"{name} could not be read to its end: {error.strerror or error}.") from error


def _looks_like_jsonl(stream: BufferedReader) -> bool:
    """Standard input has no suffix: it is JSON Lines when it starts like an object with a quoted key."""
    return re.match(rb'(\xef\xbb\xbf)?\s*\{\s*"', stream.peek(64)) is not None


# ---- bytes to text ----


def _decode(stream: BinaryIO, name: str, statistics: ReadStatistics) -> Iterator[str]:
    with _read_errors(name):
        block = stream.read(_BLOCK_BYTES)
    mark, encoding = next(((m, e) for m, e in _BYTE_ORDER_MARKS if block.startswith(m)), (b"", "utf-8"))
    block = block[len(mark) :]
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    previous = b""
    while True:
        with _read_errors(name):
            following = stream.read(_BLOCK_BYTES)
        piece = decoder.decode(block, final=not following)
        statistics.replaced_characters += piece.count("\ufffd")
        if encoding == "utf-8":  # those that were in the file were not replaced; one may lie across blocks
            statistics.replaced_characters -= (previous + block).count(_REPLACEMENT)
        yield piece
        if not following:
            return
        previous, block = (previous + block)[-2:], following


def repair(text: str) -> tuple[str, int]:
    """Replace lone surrogates, which no UTF-8 can hold, by U+FFFD. Returns the text and how many there were."""
    try:
        text.encode()
        return text, 0
    except UnicodeEncodeError:
        return _SURROGATE.subn("\ufffd", text)


def _json_lines(
    stream: BufferedReader, name: str, text_field: str, skip_broken: bool, statistics: ReadStatistics
) -> Iterator[tuple[int, str]]:
    number = 0
    while True:
        with _read_errors(name):
            line = stream.readline(_LINE_BYTES + 1)
        if not line:
            return
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > _LINE_BYTES:
            raise DataError(f"{name}:{number}: the line is longer than {_LINE_BYTES:,} bytes; is this JSON Lines?")
        if line.isspace():
            continue
        decoded = line.decode(errors="replace")
        invalid = decoded.count("\ufffd") - line.count(_REPLACEMENT)
        try:
            text, surrogates = repair(_text_of(decoded, text_field))
        except DataError as error:
            if not skip_broken:
                raise DataError(
                    f"{name}:{number}: {error} (on_error='skip' leaves such lines out and counts them)"
                ) from None
            statistics.skipped_lines += 1
            continue
        statistics.replaced_characters += invalid + surrogates
        yield number, text


def _text_of(line: str, text_field: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not usable JSON: {error}.") from None
    if not isinstance(record, dict):
        raise DataError(f"expected a JSON object, got {type(record).__name__}.")
    if text_field not in record:
        found = ", ".join(repr(key) for key in list(record)[:20]) or "none"
        raise DataError(f"no field {text_field!r}; the fields are: {found}. Name the right one with text_field=.")
    if not isinstance(record[text_field], str):
        raise DataError(f"the field {text_field!r} must be a string, got {type(record[text_field]).__name__}.")
    return record[text_field]


# ---- long texts to sections ----


def cut_sections(pieces: Iterable[str], section_characters: int, threshold: int) -> Iterator[str]:
    """Cut a text that comes in `pieces` into sections, if it has more than `threshold` characters; see the module's
    head.

    The result does not depend on how the text is divided into pieces. An empty text gives one empty section.
    """
    threshold = max(threshold, section_characters)
    buffer, is_long = "", False
    for piece in pieces:
        buffer += piece
        is_long = is_long or len(buffer) > threshold
        if not is_long:
            continue
        start = 0
        while len(buffer) - start > section_characters:
            end = _cut_point(buffer, start, section_characters)
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]
    if buffer or not is_long:
        yield buffer


def _cut_point(text: str, start: int, section_characters: int) -> int:
    end = start + section_characters
    middle = start + section_characters // 2  # a section is at least half full, so that cuts cannot pile up
    for boundary in ("\n\n", "\r\n\r\n", "\n", " "):
        found = text.rfind(boundary, middle, end)
        if found >= 0:
            return found + len(boundary)
    return end
