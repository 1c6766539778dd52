"""What a person sees during training."""

from __future__ import annotations

import io

import pytest

from llmcore.training import progress
from llmcore.training.arguments import TrainingArguments
from llmcore.training.callbacks import TrainerControl, TrainerState
from llmcore.training.progress import ProgressCallback, format_duration

LOGS = {
    "loss": 3.21456,
    "grad_norm": 1.234,
    "learning_rate": 6e-4,
    "tokens_per_second": 12345.6,
    "percent_of_matmul_peak": 41.4,
    "epoch": 0.1,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines(clock):
    stream, args, control = io.StringIO(), TrainingArguments(), TrainerControl()
    state, callback = TrainerState(max_steps=1000), ProgressCallback(stream)
    callback.on_train_begin(args, state, control, report="memory plan")
    state.global_step, clock[0] = 100, 120.0
    callback.on_step_end(args, state, control)
    callback.on_log(args, state, control, logs=LOGS)
    callback.on_log(args, state, control, logs={"eval_loss": 3.0, "eval_perplexity": 20.0855, "eval_runtime": 2.0})
    callback.on_save(args, state, control, checkpoint="out/checkpoint-100")
    callback.on_train_end(args, state, control)
    assert stream.getvalue().splitlines() == [
        "memory plan",
        "step  100/1000  loss 3.2146  lr 6.00e-04  grad norm 1.23  12,346 tokens/s  41 % of matmul peak"
        "  3 min 00 s left",
        "step  100/1000  eval loss 3.0000  perplexity 20.0855",
        "saved out/checkpoint-100",
    ]


def test_bar_on_a_terminal(clock):
    pytest.importorskip("tqdm")
    stream, args, control = Terminal(), TrainingArguments(), TrainerControl()
    state, callback = TrainerState(max_steps=10), ProgressCallback(stream)
    callback.on_train_begin(args, state, control)
    for step in range(1, 11):
        state.global_step, clock[0] = step, clock[0] + 1
        callback.on_log(args, state, control, logs=LOGS)
        callback.on_step_end(args, state, control)
    callback.on_train_end(args, state, control)
    last = stream.getvalue().split("\r")[-1]
    assert "100 %|" in last and "10/10" in last and "loss 3.2146" in last and "0 s left" in last


def test_nan_is_shown():
    stream = io.StringIO()
    ProgressCallback(stream).on_log(
        TrainingArguments(), TrainerState(max_steps=5), TrainerControl(), logs={"loss": float("nan")}
    )
    assert "loss nan" in stream.getvalue()


def test_time_left_is_never_negative_and_bounded_by_the_limit(clock):
    args, control = TrainingArguments(max_train_minutes=1), TrainerControl()
    state, callback, stream = TrainerState(max_steps=1000), None, io.StringIO()
    callback = ProgressCallback(stream)
    callback.on_train_begin(args, state, control)
    state.global_step, clock[0] = 10, 150.0
    callback.on_log(args, state, control, logs={"loss": 1.0})
    clock[0] = 500.0
    callback.on_log(args, state, control, logs={"loss": 1.0})
    assert [line.split("  ")[-1] for line in stream.getvalue().splitlines()] == ["10 s left", "0 s left"]


@pytest.mark.parametrize(
    "seconds, text",
    [(-5, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min"), (100_000, "1 d 3 h")],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text
