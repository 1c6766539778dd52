"""`llmcore presets`: the model sizes that have a name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from llmcore.cli.options import CommonOptions, parse

if TYPE_CHECKING:
    from llmcore.models import GPT2Config


@dataclasses.dataclass(kw_only=True)
class PresetsOptions(CommonOptions):
    """List the model sizes that `llmcore pretrain PRESET` knows."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(PresetsOptions, argv, "presets")
    from llmcore.cli.output import print_result, table
    from llmcore.models import PRESETS

    result = {}
    for name, config in PRESETS.items():
        result[name] = {
            "parameters": count_parameters(config),
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "n_positions": config.n_positions,
            "vocab_size": config.vocab_size,
        }
    head = ("preset", "parameters", "layers", "heads", "width", "context", "vocabulary")
    rows = [(name, f"{p['parameters'] / 1e6:.1f} M", *list(p.values())[1:]) for name, p in result.items()]
    text = table(rows, head) + "\n\nThe vocabulary is that of the tokenizer in use; the parameters change with it."
    print_result(result, text, options.json)


def count_parameters(config: GPT2Config) -> int:
    """Trained numbers of a model, tied weights once, without building it."""
    C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    attention = (3 * C * C + 3 * C) + (C * C + C)  # qkv and output projection
    block = attention + (C * inner + inner) + (inner * C + C) + 4 * C  # MLP and two norms
    head = 0 if config.tie_word_embeddings else config.vocab_size * C
    return (config.vocab_size + config.n_positions) * C + config.n_layer * block + 2 * C + head
