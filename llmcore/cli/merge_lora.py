"""`llmcore merge-lora ADAPTER --output_dir ...`: an adapter becomes part of its base model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
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
    from llmcore.models.lora import ADAPTER_CONFIG, LoraConfig

    adapter = Path(options.adapter)
    if not (adapter / ADAPTER_CONFIG).is_file():
        found = "holds no adapter" if adapter.is_dir() else "is no folder"
        raise ConfigError(
            f"{adapter} {found}; expected one with {ADAPTER_CONFIG}, as llmcore finetune --lora writes it"
        )
    folder = Path(options.output_dir or f"{adapter}-merged")
    base = LoraConfig.from_pretrained(adapter).base_model_name_or_path
    for owner, taken in (("the adapter", adapter), ("its base model", Path(base or adapter))):
        if folder.resolve() == taken.resolve():
            raise UsageError(f"--output_dir {folder} is the folder of {owner}, which would be lost: choose another.")
    model = load_model(options.adapter)
    tokenizer = model.tokenizer
    model.merge_and_unload().save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    print_result({"output_dir": str(folder)}, f"saved {folder}", options.json)
