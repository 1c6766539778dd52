"""The picture of a run: training and evaluation loss over the updates. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcore.errors import ConfigError
from llmcore.training.callbacks import TrainerCallback, TrainerControl, TrainerState
from llmcore.training.metrics_log import read_metrics

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments

logger = logging.getLogger("llmcore")

_MISSING = "a loss picture needs matplotlib, which is not installed: pip install 'llmcore[plot]'"
_COLOURS = ("#1f5fa8", "#d1731a", "#2f8f4e", "#9a3fb0", "#b8372f", "#4f4f4f")


def has_matplotlib() -> bool:
    """Whether matplotlib can be imported."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_runs(runs: Sequence[str | Path], output: str | Path, title: str | None = None) -> Path:
    """Draws the loss of one or more runs.

    Args:
        runs: output folders, or `metrics.jsonl` files.
        output: picture to write; its suffix (.png, .svg, .pdf) chooses the format.
        title: text above the picture.

    Raises ConfigError if matplotlib is missing or a run has logged no loss.
    """
    if not runs:
        raise ConfigError("name at least one run to draw: the output_dir of a training, or its metrics.jsonl")
    histories = {}
    for run in runs:
        path = Path(run)
        folder = path if path.is_dir() else path.parent
        histories[folder.resolve().name if len(runs) > 1 else ""] = read_metrics(run)
    return plot_histories(histories, output, title)


def plot_histories(histories: dict[str, list[dict[str, Any]]], output: str | Path, title: str | None = None) -> Path:
    """Like `plot_runs`, for log histories by label."""
    if not has_matplotlib():
        raise ConfigError(_MISSING)
    # Figure without pyplot: nothing global is touched and no display is looked for
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    highest = []
    for index, (label, history) in enumerate(histories.items()):
        train, evaluation = _curve(history, "loss"), _curve(history, "eval_loss")
        if not train and not evaluation:
            raise ConfigError(f"the run {label or 'given'} has logged no loss so far, so there is nothing to draw")
        colour, prefix = _COLOURS[index % len(_COLOURS)], f"{label}: " if label else ""
        # the points themselves are faint, the running mean carries the eye
        if len(train) > 20:
            axes.plot(*zip(*train, strict=True), color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(*zip(*_smooth(train), strict=True), color=colour, linewidth=1.6, label=f"{prefix}training loss")
        elif train:
            axes.plot(*zip(*train, strict=True), color=colour, linewidth=1.6, label=f"{prefix}training loss")
        if evaluation:
            other = _COLOURS[1] if len(histories) == 1 else colour
            last = evaluation[-1][1]
            axes.plot(
                *zip(*evaluation, strict=True),
                color=other,
                linewidth=1.4,
                linestyle="--",
                marker="o",
                markersize=3.5,
                label=f"{prefix}evaluation loss (last {last:.3f})",
            )
        highest += [value for _, value in (*train, *evaluation)]
    axes.set_xlabel("step (optimizer updates)")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title or "Loss")
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    return output


def _curve(history: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[name]) for entry in history if name in entry and math.isfinite(entry[name])]


def _smooth(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Centred mean over about a fortieth of the curve; the window shrinks at the ends, so nothing is shifted."""
    half = max(1, len(curve) // 80)
    smoothed = []
    for index, (step, _) in enumerate(curve):
        reach = min(half, index, len(curve) - 1 - index)
        window = curve[index - reach : index + reach + 1]
        smoothed.append((step, sum(value for _, value in window) / len(window)))
    return smoothed


class PlotCallback(TrainerCallback):
    """Draws `output_dir/loss.png` when training ends, as `plot_loss` says."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.plot_loss == "yes" and not has_matplotlib():
            raise ConfigError(_MISSING)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.plot_loss == "no" or not has_matplotlib():
            return
        if not _curve(state.log_history, "loss"):
            return
        path = plot_histories({"": state.log_history}, Path(args.output_dir) / "loss.png", args.run_name)
        logger.info("drew %s", path)
