"""`llmcore merge-lora ADAPTER --output_dir ...`: an adapter becomes part of its base model."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse
from llmcore.errors import ConfigError


@dataclasses.dataclass(kw_only=True)
class MergeOptions(CommonOptions):
    """Write the model that an adapter and its base model make together."""

    adapter: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ADAPTER")]] = ""
    """Folder of the adapter, as `llmcore finetune --lora` or peft wrote it."""

    output_dir: str | None = None
    """Folder for the model; None means ADAPTER-merged."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(MergeOptions, argv, "merge-lora")
    if not options.adapter:
        raise UsageError("merge-lora needs the folder of an adapter: llmcore merge-lora finetuned")
    from llmcore.cli.output import print_result
    from llmcore.models.auto import load_model

    model = load_model(options.adapter)
    if model.peft_config is None:
        raise ConfigError(f"{options.adapter} holds no adapter (adapter_config.json); there is nothing to merge")
    folder = options.output_dir or f"{options.adapter.rstrip('/')}-merged"
    tokenizer = model.tokenizer
    model.merge_and_unload().save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    print_result({"output_dir": folder}, f"saved {folder}", options.json)
