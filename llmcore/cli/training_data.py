"""From `--train_file` to datasets: prepares text once per run, or opens what `llmcore prepare` made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcore.cli.output import remark
from llmcore.cli.text import choose_vocabulary, standard_input_as_file
from llmcore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from llmcore.data import BlockDataset, DataReport, TokenShard
    from llmcore.data.tokenizer import Tokenizer

_SMALLEST_BLOCK = 8


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a run trains and validates on."""

    tokenizer: Tokenizer
    train: BlockDataset
    validation: BlockDataset | None
    report: DataReport
    block_size: int


@dataclasses.dataclass(frozen=True)
class DataRequest:
    """What the user said about the data; see PretrainOptions."""

    train_file: list[str]
    validation_file: list[str] = dataclasses.field(default_factory=list)
    validation_fraction: float = 0.05
    tokenizer: str | None = None
    vocab_size: int | None = None
    near_duplicates: bool = True
    text_field: str = "text"
    reuse: bool = False  # a run that goes on takes the tokens that it began with


def load_training_data(request: DataRequest, folder: Path, block_size: int) -> TrainingData:
    """Tokenizes the text into `folder` (or opens prepared tokens), and cuts it into blocks of `block_size` tokens.

    A text that is too short for `block_size` gets shorter blocks, with a remark. Raises DataError, ConfigError.
    """
    from llmcore.data import BlockDataset, Tokenizer, open_shard, report_shards
    from llmcore.data.prepare import REPORT_NAME

    prepared = _prepared_folder(request)
    if prepared is None and request.reuse and (folder / REPORT_NAME).is_file():
        remark(f"data: going on with the tokens in {folder}")
        prepared = folder
    if prepared is None:
        _prepare(request, folder)
        prepared = folder
    tokenizer = Tokenizer.from_pretrained(prepared)
    shards: dict[str, TokenShard] = {"train": open_shard(prepared / "train.bin", tokenizer=tokenizer)}
    if (prepared / "validation.bin").is_file():
        shards["validation"] = open_shard(prepared / "validation.bin", tokenizer=tokenizer)
    block_size = _fitting_block(block_size, shards["train"])
    train = BlockDataset(shards["train"], block_size)
    validation = BlockDataset(shards["validation"], block_size, keep_tail=True) if "validation" in shards else None
    report = report_shards(shards, tokenizer, block_size)
    train.report = report  # type: ignore[attr-defined]  # the trainer shows it before step 1
    return TrainingData(tokenizer, train, validation, report, block_size)


def _prepared_folder(request: DataRequest) -> Path | None:
    """The folder that `llmcore prepare` wrote, if that is what was given."""
    if len(request.train_file) != 1 or not (Path(request.train_file[0]) / "train.bin").is_file():
        return None
    for name in ("tokenizer", "vocab_size", "validation_file"):
        if getattr(request, name):
            raise ConfigError(
                f"{request.train_file[0]} holds tokens already, so --{name} comes too late; give it to llmcore prepare."
            )
    return Path(request.train_file[0])


def _prepare(request: DataRequest, folder: Path) -> None:
    from llmcore.data.prepare import prepare

    with standard_input_as_file(request.train_file, folder) as sources:
        choice = choose_vocabulary(request.tokenizer, request.vocab_size, sources)
        remark(f"tokenizer: {choice.reason}")
        prepare(
            sources,
            folder,
            choice.kind,
            vocab_size=choice.vocab_size,
            validation_fraction=request.validation_fraction,
            validation_sources=request.validation_file or None,
            near_duplicates=request.near_duplicates,
            text_field=request.text_field,
        )


def _fitting_block(block_size: int, shard: Any) -> int:
    """`block_size`, halved until the text fills some ten blocks (so that there is an order to shuffle)."""
    fitting = block_size
    while fitting * 10 > len(shard) and fitting > _SMALLEST_BLOCK:
        fitting //= 2
    if fitting > len(shard):
        raise DataError(
            f"the training text has {len(shard)} tokens; at least {_SMALLEST_BLOCK} are needed, and many more to learn."
        )
    if fitting < block_size:
        remark(f"block size: {fitting} instead of {block_size}, because the text has only {len(shard):,} tokens")
    return fitting
