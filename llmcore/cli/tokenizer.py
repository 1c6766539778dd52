"""`llmcore tokenizer train DATA ...`: a vocabulary from text, in a folder that transformers loads too."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse

if TYPE_CHECKING:
    from llmcore.data import Document, Tokenizer


@dataclasses.dataclass(kw_only=True)
class TokenizerOptions(CommonOptions):
    """Train a tokenizer on text and save it: `llmcore tokenizer train DATA --output_dir tokenizer`."""

    words: tyro.conf.Positional[Annotated[list[str], tyro.conf.arg(metavar="train DATA [DATA ...]")]] = (
        dataclasses.field(default_factory=list)
    )
    """The word train, then files, folders, patterns, - for standard input, or stdlib."""

    output_dir: str = "tokenizer"
    """Folder for tokenizer.json and its companions."""

    kind: Literal["bpe", "wordpiece", "unigram", "char", "byte"] = "bpe"
    """bpe: byte-level pairs as in GPT-2; wordpiece: as in BERT; unigram: as in T5; char: one entry per character; byte:
    257 entries, nothing to train."""

    vocab_size: int | None = None
    """Entries of a bpe, wordpiece or unigram vocabulary; None lets the size of the text decide."""

    lowercase: bool | None = None
    """Fold capitals, and for wordpiece accents; None means yes for wordpiece, no for unigram. Others never do."""

    min_frequency: int = 2
    """For bpe and wordpiece: a pair of pieces becomes one if it occurs at least this often."""

    text_field: str = "text"
    """Field of JSON lines that holds the text."""


_NAMES = {"bpe": "byte-level BPE", "wordpiece": "WordPiece", "unigram": "Unigram"}


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(TokenizerOptions, argv, "tokenizer")
    if not options.words or options.words[0] != "train":
        raise UsageError("the one thing to do is train: llmcore tokenizer train DATA --output_dir tokenizer")
    sources = options.words[1:]
    if options.lowercase is not None and options.kind not in ("wordpiece", "unigram"):
        raise UsageError(
            f"--lowercase is for wordpiece and unigram; a {options.kind} tokenizer keeps the text as it is."
        )
    if not sources and options.kind != "byte":
        raise UsageError("tokenizer train needs text: files, folders, patterns, - or stdlib.")
    from llmcore.cli.output import print_result, remark
    from llmcore.cli.text import choose_vocabulary, standard_input_as_file
    from llmcore.data.readers import ReadStatistics, read_documents
    from llmcore.data.vocabularies import byte_tokenizer, char_tokenizer

    started = time.perf_counter()
    statistics = ReadStatistics()
    with tempfile.TemporaryDirectory() as folder, standard_input_as_file(sources, Path(folder)) as files:
        if options.kind == "byte":
            tokenizer = byte_tokenizer()
        else:
            documents = read_documents(files, text_field=options.text_field, statistics=statistics)
            if options.kind == "char":
                tokenizer = char_tokenizer(documents)
            else:
                choice = choose_vocabulary("bpe", options.vocab_size, files)
                remark(f"training: {choice.reason.replace('byte-level BPE', _NAMES[options.kind])}")
                tokenizer = _train(options, documents, choice.vocab_size)
    tokenizer.save_pretrained(options.output_dir)
    seconds = time.perf_counter() - started
    result = {
        "output_dir": options.output_dir,
        "kind": options.kind,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint(),
        "files": statistics.files,
        "seconds": round(seconds, 2),
    }
    text = f"{options.output_dir}: {tokenizer.vocab_size:,} entries from {statistics.files} file(s) in {seconds:.1f} s"
    print_result(result, text, options.json)


def _train(options: TokenizerOptions, documents: Iterable[Document], vocab_size: int) -> Tokenizer:
    from llmcore.data.subwords import train_unigram, train_wordpiece
    from llmcore.data.vocabularies import train_bpe

    if options.kind == "bpe":
        return train_bpe(documents, vocab_size, min_frequency=options.min_frequency)
    if options.kind == "wordpiece":
        lowercase = options.lowercase is not False
        return train_wordpiece(documents, vocab_size, lowercase=lowercase, min_frequency=options.min_frequency)
    return train_unigram(documents, vocab_size, lowercase=bool(options.lowercase))
