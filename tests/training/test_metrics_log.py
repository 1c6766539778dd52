"""metrics.jsonl, metrics.csv and TensorBoard."""

from __future__ import annotations

import csv
import json
import math
import sys

import pytest

from llmcore.errors import ConfigError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.callbacks import TrainerControl, TrainerState
from llmcore.training.metrics_log import MetricsFileCallback, TensorBoardCallback, read_metrics


def log(callback, args, state, step, **logs):
    state.global_step = step
    state.log_history.append({**logs, "step": step})
    callback.on_log(args, state, TrainerControl(), logs=logs)


def test_both_files_hold_every_entry_at_once(tmp_path):
    args, state, callback = TrainingArguments(str(tmp_path)), TrainerState(), MetricsFileCallback()
    callback.on_train_begin(args, state, TrainerControl())
    log(callback, args, state, 1, loss=4.5, learning_rate=1e-5)
    assert read_metrics(tmp_path) == state.log_history  # on the disk before the next entry
    log(callback, args, state, 2, loss=math.nan)
    log(callback, args, state, 2, eval_loss=4.0, eval_score=0.1 + 0.2)
    log(callback, args, state, 3, loss=3.5)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "2", "3"]
    assert rows[1]["loss"] == "nan" and rows[0]["eval_score"] == ""
    assert float(rows[2]["eval_score"]) == 0.1 + 0.2
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[1]["loss"])


def test_resume_cuts_back_to_the_checkpoint(tmp_path):
    args, state, callback = TrainingArguments(str(tmp_path)), TrainerState(), MetricsFileCallback()
    callback.on_train_begin(args, state, TrainerControl())
    for step in (1, 2, 3, 4):
        log(callback, args, state, step, loss=float(step))
    resumed, callback = TrainerState(global_step=2, log_history=state.log_history[:2]), MetricsFileCallback()
    callback.on_train_begin(args, resumed, TrainerControl())
    log(callback, args, resumed, 3, loss=30.0)
    assert [entry["loss"] for entry in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_line_cut_off_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0, "step": 1}\n{"loss": 0.5, "st')
    assert read_metrics(tmp_path) == [{"loss": 1.0, "step": 1}]
    with pytest.raises(ConfigError, match="output_dir of a run"):
        read_metrics(tmp_path / "missing")


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    args, state = TrainingArguments(str(tmp_path), logging_dir=str(tmp_path / "tb")), TrainerState()
    callback = TensorBoardCallback()
    callback.on_train_begin(args, state, TrainerControl())
    log(callback, args, state, 7, loss=1.5, eval_loss=2.5, train_runtime=3.0)
    callback.on_train_end(args, state, TrainerControl())
    (path,) = (tmp_path / "tb").iterdir()
    raw, found, position = path.read_bytes(), {}, 0
    while position < len(raw):
        length = int.from_bytes(raw[position : position + 8], "little")
        event = Event.FromString(raw[position + 12 : position + 12 + length])
        found.update({value.tag: (event.step, value.simple_value) for value in event.summary.value})
        position += 12 + length + 4
    assert found["train/loss"] == (7, 1.5) and found["eval/loss"] == (7, 2.5) and found["train/runtime"] == (7, 3.0)


def test_missing_tensorboard_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmcore\[tensorboard\]'"):
        TensorBoardCallback()


def test_jsonl_is_one_object_a_line(tmp_path):
    args, state, callback = TrainingArguments(str(tmp_path)), TrainerState(), MetricsFileCallback()
    log(callback, args, state, 1, loss=1.0)  # an evaluation outside training logs, too
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == state.log_history
