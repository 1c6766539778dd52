"""`llmcore plot RUN [RUN ...]`: loss curves of runs in one picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from llmcore.cli.options import CommonOptions, UsageError, parse


@dataclasses.dataclass(kw_only=True)
class PlotOptions(CommonOptions):
    """Draw the loss curves of one or more runs. Needs matplotlib: pip install 'llmcore[plot]'."""

    runs: tyro.conf.Positional[Annotated[list[str], tyro.conf.arg(metavar="RUN [RUN ...]")]] = dataclasses.field(
        default_factory=list
    )
    """Folders of runs, or their metrics.jsonl."""

    output: str | None = None
    """Picture to write (.png, .svg or .pdf); None means loss.png in the first run's folder."""

    title: str | None = None
    """Heading of the picture."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(PlotOptions, argv, "plot")
    if not options.runs:
        raise UsageError("plot needs the folder of a run: llmcore plot out")
    from llmcore.cli.output import print_result
    from llmcore.training.plot import plot_runs

    first = Path(options.runs[0])
    output = Path(options.output) if options.output else (first if first.is_dir() else first.parent) / "loss.png"
    path = plot_runs(options.runs, output, options.title)
    print_result({"picture": str(path), "runs": options.runs}, f"drew {path}", options.json)
