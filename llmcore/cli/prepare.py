"""`llmcore prepare DATA --output_dir DIR`: text to token files, once, with a report of what is in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse


@dataclasses.dataclass(kw_only=True)
class PrepareOptions(CommonOptions):
    """Tokenize text into train.bin and validation.bin, which `llmcore pretrain --train_file DIR` reads."""

    data: tyro.conf.Positional[Annotated[list[str], tyro.conf.arg(metavar="DATA [DATA ...]")]] = dataclasses.field(
        default_factory=list
    )
    """Files, folders, patterns, - for standard input, or stdlib (the source of Python's standard library)."""

    output_dir: str = "prepared"
    """Folder for the token files, the tokenizer and data_report.json."""

    tokenizer: str | None = None
    """bpe, byte, char, or a folder with a tokenizer; None lets the size of the text decide."""

    vocab_size: int | None = None
    """Entries of a bpe vocabulary; None lets the size of the text decide."""

    validation_file: list[str] = dataclasses.field(default_factory=list)
    """Text to validate on; none given sets a part of the documents aside."""

    validation_fraction: float = 0.05
    """Part of the documents that validate, if there is no validation_file."""

    near_duplicates: bool = True
    """Keep documents that are nearly the same on one side of the split; reads the text once more."""

    text_field: str = "text"
    """Field of JSON lines that holds the text."""

    on_error: Literal["raise", "skip"] = "raise"
    """What to do with a line of a .jsonl file that is broken."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(PrepareOptions, argv, "prepare")
    if not options.data:
        raise UsageError("prepare needs text: files, folders, patterns, - or stdlib.")
    from llmcore.cli.output import print_result, remark
    from llmcore.cli.text import choose_vocabulary, standard_input_as_file
    from llmcore.data.prepare import prepare

    folder = Path(options.output_dir)
    with standard_input_as_file(options.data, folder) as files:
        choice = choose_vocabulary(options.tokenizer, options.vocab_size, files)
        remark(f"tokenizer: {choice.kind if choice.reason == 'as asked' else choice.reason}")
        report = prepare(
            files,
            folder,
            choice.kind,
            vocab_size=choice.vocab_size,
            validation_fraction=options.validation_fraction,
            validation_sources=options.validation_file or None,
            near_duplicates=options.near_duplicates,
            text_field=options.text_field,
            on_error=options.on_error,
        )
    result = {"output_dir": str(folder), **json.loads(report.to_json())}
    print_result(result, f"{report.render()}\nwrote {folder}", options.json)
