"""`llmcore quickstart`: from nothing to a model that completes Python, in a few minutes."""

from __future__ import annotations

import dataclasses
import shlex

from llmcore.cli.options import CommonOptions, parse


@dataclasses.dataclass(kw_only=True)
class QuickstartOptions(CommonOptions):
    """Train a small model on the source of Python's standard library and let it complete functions."""

    output_dir: str = "quickstart"
    """Folder for the model, its metrics and the picture of the loss."""

    minutes: float = 5.0
    """On a slow machine: train for about so long; a fast one is done earlier."""

    train_file: list[str] = dataclasses.field(default_factory=list)
    """Other Python files or folders to learn from; none given means the standard library."""

    max_steps: int | None = None
    """Updates to make at most; None takes what was tuned."""

    seed: int = 42
    """Seed of the weights, the order of the data and the samples."""

    num_threads: int = 0
    """CPU threads; 0 means all that this process may use."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(QuickstartOptions, argv, "quickstart")
    from llmcore.cli.output import print_result, remark, spell_duration
    from llmcore.quickstart import QuickstartSettings, run_quickstart

    settings = QuickstartSettings(
        output_dir=options.output_dir,
        minutes=options.minutes,
        seed=options.seed,
        num_threads=options.num_threads,
        sources=options.train_file or None,
    )
    if options.max_steps is not None:
        settings.max_steps = options.max_steps
    result = run_quickstart(settings, remark)
    name = shlex.quote(result.output_dir)
    lines = ["", "It completes Python (+). After a few minutes of learning that has the look of code, not its sense:"]
    for completion in result.completions:
        lines += ["", *(f"      {line}" for line in completion["prompt"].splitlines())]
        lines += [f"    + {line}" for line in completion["text"].strip("\n").splitlines()]
    picture = result.picture or "not drawn, because matplotlib is missing: pip install 'llmcore[plot]'"
    lines += [
        "",
        f"Model     {result.output_dir} (transformers loads it too)",
        f"Loss      {picture}",
        f"Time      {spell_duration(result.seconds)}",
        "",
        "Try next:",
        f'  llmcore generate {name} --prompt "def main(" --temperature 0.5',
        f"  llmcore evaluate {name} --data some_file.py",
        "  llmcore pretrain gpt2-mini --train_file your_text.txt --output_dir out",
    ]
    print_result(dataclasses.asdict(result), "\n".join(lines), options.json)
