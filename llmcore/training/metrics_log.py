"""`metrics.jsonl` and `metrics.csv`: every log entry of a run, always written; and TensorBoard, if asked for.

Both files are opened for each entry, so that a kill loses nothing and a moved folder is no problem. On a resume they
are rewritten from the checkpoint's log history: what an interrupted run logged after that checkpoint goes, and the
curve is one.
"""

from __future__ import annotations

import csv
import io
import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcore.errors import ConfigError
from llmcore.text_file import write_text
from llmcore.training.callbacks import TrainerCallback, TrainerControl, TrainerState

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments

_FIRST_COLUMNS = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens_per_second", "num_input_tokens_seen")


class MetricsFileCallback(TrainerCallback):
    """Writes `metrics.jsonl` (one object a line) and `metrics.csv` (one column per metric) into `output_dir`."""

    def __init__(self) -> None:
        self._columns: list[str] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        folder = Path(args.output_dir)
        _replace(folder / "metrics.jsonl", "".join(_json_line(entry) for entry in state.log_history))
        self._columns = list(_FIRST_COLUMNS)
        self._rewrite_csv(folder, state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder, entry = Path(args.output_dir), state.log_history[-1]
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(_json_line(entry))
        if set(entry) <= set(self._columns) and (folder / "metrics.csv").exists():
            with open(folder / "metrics.csv", "a", encoding="utf-8", newline="") as file:
                file.write(self._csv_row(entry))
        else:
            self._rewrite_csv(folder, state)

    def _rewrite_csv(self, folder: Path, state: TrainerState) -> None:
        self._columns = self._columns or list(_FIRST_COLUMNS)
        for entry in state.log_history:
            self._columns += [name for name in entry if name not in self._columns]
        rows = [",".join(self._columns) + "\n", *(self._csv_row(entry) for entry in state.log_history)]
        _replace(folder / "metrics.csv", "".join(rows))

    def _csv_row(self, entry: dict[str, Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([entry.get(name, "") for name in self._columns])
        return text.getvalue()


def _json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a `metrics.jsonl`, or of the folder that holds one. A line cut off by a kill is left out."""
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"there is no {path}; give the output_dir of a run, or its metrics.jsonl")
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


class TensorBoardCallback(TrainerCallback):
    """Writes every metric to TensorBoard: `train/loss`, `eval/loss` and so on, by step."""

    def __init__(self) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "report_to='tensorboard' needs tensorboardX, which is not installed: pip install 'llmcore[tensorboard]'"
            ) from None
        self._create = SummaryWriter
        self._writer: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        default = Path(args.output_dir) / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}_{socket.gethostname()}"
        self._writer = self._create(logdir=str(args.logging_dir or default))
        self._writer.add_text("args", args.to_json())

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._writer is None:
            return
        for name, value in kwargs["logs"].items():
            if isinstance(value, (int, float)):
                tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name.removeprefix('train_')}"
                self._writer.add_scalar(tag, value, state.global_step)
        self._writer.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
