"""`llmcore presets`: the model sizes that have a name."""

from __future__ import annotations

import dataclasses

from llmcore.cli.options import CommonOptions, parse


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
        sizes = config.dimensions()
        result[name] = {
            "parameters": sizes.parameters,
            "layers": sizes.layers,
            "heads": sizes.heads,
            "width": sizes.width,
            "positions": sizes.positions,
            "vocab_size": config.vocab_size,
        }
    head = ("preset", "parameters", "layers", "heads", "width", "context", "vocabulary")
    rows = [(name, f"{p['parameters'] / 1e6:.1f} M", *list(p.values())[1:]) for name, p in result.items()]
    text = table(rows, head) + "\n\nThe vocabulary is that of the tokenizer in use; the parameters change with it."
    print_result(result, text, options.json)
