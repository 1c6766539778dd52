"""Progress of a run: a bar on a terminal, plain lines elsewhere. Times come from the monotonic clock."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from llmcore.training.callbacks import TrainerCallback, TrainerControl, TrainerState

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments

_REFRESH = 0.1  # seconds between two redraws of the bar


def format_duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    seconds = int(max(0.0, seconds) + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"


def describe_training(logs: dict[str, Any]) -> list[str]:
    """The parts of a log line: loss, learning rate, gradient norm, speed."""
    parts = [f"loss {logs['loss']:.4f}"]
    if "learning_rate" in logs:
        parts.append(f"lr {logs['learning_rate']:.2e}")
    if "grad_norm" in logs:
        parts.append(f"grad norm {logs['grad_norm']:.2f}")
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    if "percent_of_matmul_peak" in logs:
        parts.append(f"{logs['percent_of_matmul_peak']:.0f} % of matmul peak")
    return parts


def describe_evaluation(metrics: dict[str, Any]) -> list[str]:
    """The parts of an evaluation's line; run times and counters are left to the files."""
    parts = []
    for name, value in metrics.items():
        timing = name.endswith(("_runtime", "_per_second")) or name in ("epoch", "step")
        if not timing and isinstance(value, (int, float)):
            label = name.removeprefix("eval_").replace("_", " ") if name != "eval_loss" else "eval loss"
            parts.append(f"{label} {value:.4f}" if isinstance(value, float) else f"{label} {value:,}")
    return parts


class ProgressCallback(TrainerCallback):
    """Shows loss, learning rate, gradient norm, tokens/s, per cent of the matmul peak and the time left."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.on_terminal = bool(getattr(self.stream, "isatty", lambda: False)())
        self._bar: Any = None
        self._started = self._drawn = 0.0
        self._first_step = 0
        self._latest: list[str] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started, self._first_step, self._latest = time.monotonic(), state.global_step, []
        if kwargs.get("report"):
            self._write(kwargs["report"])
        if self.on_terminal:
            from tqdm import tqdm

            # tqdm's own times follow the wall clock, so the format leaves them out. A terminal that does not know its
            # width (0 columns, as in some containers) would get an empty line.
            width = {"dynamic_ncols": True} if self._terminal_columns() else {"ncols": 120}
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                file=self.stream,
                bar_format="{percentage:3.0f} %|{bar:10}| {n_fmt}/{total_fmt}{postfix}",
                **width,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is None:
            return
        self._bar.n = state.global_step
        now = time.monotonic()
        if now - self._drawn >= _REFRESH or state.global_step >= state.max_steps:
            self._drawn = now
            # what matters most comes first: a narrow terminal cuts the end off
            self._bar.set_postfix_str("  ".join([self._time_left(args, state), *self._latest]), refresh=False)
            self._bar.refresh()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        position = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
        if "loss" in logs:
            self._latest = describe_training(logs)
            if self._bar is None or not math.isfinite(logs["loss"]):
                self._write("  ".join([position, *self._latest, self._time_left(args, state)]))
        elif "train_runtime" in logs:
            duration = format_duration(logs["train_runtime"])
            self._write(f"{position}  ended after {duration}, evaluations and saving included")
        else:
            self._write("  ".join([position, *describe_evaluation(logs)]))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "checkpoint" in kwargs:
            self._write(f"saved {kwargs['checkpoint']}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _terminal_columns(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns
        except (OSError, ValueError):
            return 0

    def _time_left(self, args: TrainingArguments, state: TrainerState) -> str:
        done = state.global_step - self._first_step
        if done <= 0:
            return ""
        elapsed = time.monotonic() - self._started
        left = elapsed / done * (state.max_steps - state.global_step)
        if args.max_train_minutes is not None:
            left = min(left, 60 * args.max_train_minutes - elapsed)
        return f"{format_duration(left)} left"

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(text, file=self.stream, flush=True)
        if self._bar is not None:
            self._bar.refresh()
