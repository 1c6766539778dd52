"""Sources -> train.bin, validation.bin, tokenizer files and data_report.json, in one pass and bounded memory.

Every file is written beside its final name and renamed when complete. data_report.json of an earlier run is removed
before the first rename and written last: where it exists, the set is whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from llmcore.data.atomic import make_directory, write_atomically
from llmcore.data.readers import Document, ReadStatistics, read_documents
from llmcore.data.report import DataReport, report_shards
from llmcore.data.shard_writer import ShardWriter
from llmcore.data.shards import open_shard
from llmcore.data.sources import STDIN, expand_sources
from llmcore.data.split import TRAIN, VALIDATION, cut_if_few, places_of_near_duplicates, split_documents
from llmcore.data.tokenizer import Tokenizer
from llmcore.data.vocabularies import byte_tokenizer, char_tokenizer, train_bpe
from llmcore.errors import ConfigError, DataError

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

REPORT_NAME = "data_report.json"

# Documents are tokenized this many characters at a time: enough to occupy all cores, and some 100 MB inside
# `tokenizers`, which spends about 100 bytes on a token.
_BATCH_CHARACTERS = 1 << 20


def prepare(
    sources: Sources,
    output_dir: str | os.PathLike[str],
    tokenizer: Tokenizer | str | os.PathLike[str] = "bpe",
    *,
    vocab_size: int = 8192,
    validation_fraction: float = 0.05,
    validation_sources: Sources | None = None,
    near_duplicates: bool = True,
    text_field: str = "text",
    on_error: Literal["raise", "skip"] = "raise",
    progress: Callable[[int], None] | None = None,
) -> DataReport:
    """Tokenize text into `output_dir`.

    `tokenizer`: a Tokenizer, a folder with one, or "bpe" (trained on the training text, `vocab_size` entries), "byte",
    "char". `validation_fraction` of the documents validate, by a hash of their text (see `split`); 0 for none.
    `near_duplicates`: those of a document are on its side, for which the text is read once more.
    `validation_sources` are validation text of their own; then all of `sources` trains. `progress` is called with the
    bytes of each batch. Every document is followed by the end-of-text token; text that spells a special token is
    encoded as plain characters. Raises DataError, ConfigError. Where it raises, files of an earlier run are as they
    were.
    """
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}.")
    read, notes = ReadStatistics(), []
    places: dict[float, float] = {}
    if near_duplicates and validation_sources is None and validation_fraction:
        if STDIN in expand_sources(sources):
            notes.append("Standard input can be read only once: near-duplicates were not looked for.")
        else:
            documents = cut_if_few(read_documents(sources, text_field=text_field, on_error=on_error), [])
            places = places_of_near_duplicates((d.text for d in documents), validation_fraction, notes)

    def stream(statistics: ReadStatistics, remarks: list[str]) -> Iterator[tuple[str, Document]]:
        options = {"text_field": text_field, "on_error": on_error, "statistics": statistics}
        training = read_documents(sources, **options)
        if validation_sources is None:
            return split_documents(training, validation_fraction, remarks, places)
        return _both(training, read_documents(validation_sources, **options))

    if not isinstance(tokenizer, Tokenizer):
        training_text = (document for side, document in stream(ReadStatistics(), []) if side == TRAIN)
        tokenizer = _make_tokenizer(tokenizer, training_text, vocab_size, sources)
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end-of-text token; name one of its vocabulary with eos_token=.")

    folder = make_directory(output_dir)
    with contextlib.ExitStack() as stack:
        writers = {}
        for side in (TRAIN, VALIDATION):
            writers[side] = ShardWriter(
                folder / f"{side}.bin",
                tokenizer.vocab_size,
                eos_token_id=tokenizer.eos_token_id,
                tokenizer_fingerprint=tokenizer.fingerprint(),
            )
            stack.callback(writers[side].discard)  # nothing to do after commit
        for batch in _batches(stream(read, notes)):
            size = _write_batch(batch, tokenizer, writers)
            if progress is not None:
                progress(size)
        _refuse_empty(writers[TRAIN], read)
        return _publish(folder, writers, tokenizer, read, notes)


def _make_tokenizer(
    name: str | os.PathLike[str], texts: Iterable[Document], vocab_size: int, sources: Sources
) -> Tokenizer:
    if name == "byte":
        return byte_tokenizer()
    if name not in ("bpe", "char"):
        return Tokenizer.from_pretrained(name)
    if STDIN in expand_sources(sources):
        raise DataError(
            f"standard input can be read only once, but tokenizer={name!r} has to see the text before it is "
            "tokenized: save it to a file, or give a finished tokenizer (a folder, or 'byte')."
        )
    return train_bpe(texts, vocab_size) if name == "bpe" else char_tokenizer(texts)


def _both(training: Iterable[Document], validation: Iterable[Document]) -> Iterator[tuple[str, Document]]:
    yield from ((TRAIN, document) for document in training)
    yield from ((VALIDATION, document) for document in validation)


def _batches(documents: Iterable[tuple[str, Document]]) -> Iterator[list[tuple[str, str]]]:
    """Lists of (side, text) of about _BATCH_CHARACTERS."""
    batch: list[tuple[str, str]] = []
    characters = 0
    for side, document in documents:
        batch.append((side, document.text))
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _write_batch(batch: list[tuple[str, str]], tokenizer: Tokenizer, writers: dict[str, ShardWriter]) -> int:
    """Tokenize and append; returns the bytes of the text."""
    texts = [text for _, text in batch]
    rows = tokenizer.encode_batch(texts, add_special_tokens=False, split_special_tokens=True)
    total = 0
    for (side, text), ids in zip(batch, rows, strict=True):
        size = len(text.encode())
        writers[side].add_document(ids, size, len(text))
        total += size
    return total


def _refuse_empty(writer: ShardWriter, read: ReadStatistics) -> None:
    if writer.token_count == 0:
        raise DataError(
            f"there is no text in the {read.files} file(s): {read.empty_documents} empty document(s), "
            f"{read.skipped_lines} broken line(s)."
        )


def _publish(
    folder: Path, writers: dict[str, ShardWriter], tokenizer: Tokenizer, read: ReadStatistics, notes: list[str]
) -> DataReport:
    """Give all files their names and describe them."""
    (folder / REPORT_NAME).unlink(missing_ok=True)
    sides = [side for side, writer in writers.items() if writer.token_count]
    for side in sides:
        writers[side].commit()
    if VALIDATION not in sides:
        (folder / f"{VALIDATION}.bin").unlink(missing_ok=True)  # of an earlier run: other text, perhaps trained on now
    tokenizer.save_pretrained(folder)
    with contextlib.ExitStack() as stack:
        shards = {side: stack.enter_context(open_shard(folder / f"{side}.bin")) for side in sides}
        report = report_shards(shards, tokenizer, read=read, notes=notes)
    write_atomically(folder / REPORT_NAME, report.to_json().encode())
    return report
