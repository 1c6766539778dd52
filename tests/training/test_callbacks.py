"""State, control and the callbacks that steer the loop."""

from __future__ import annotations

import json

import pytest

from llmcore.errors import ConfigError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.callbacks import (
    CallbackHandler,
    DefaultFlowCallback,
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

STEERED = {"eval_strategy": "steps", "eval_steps": 4, "save_steps": 6, "logging_steps": 5}


def decisions(args, step, max_steps=10):
    state = TrainerState(global_step=step, max_steps=max_steps, logging_steps=5, eval_steps=4, save_steps=6)
    control = DefaultFlowCallback().on_step_end(args, state, TrainerControl())
    return {name.removeprefix("should_") for name, value in vars(control).items() if value}


@pytest.mark.parametrize(
    "step, expected",
    [
        (1, {"log"}),
        (2, set()),
        (4, {"evaluate"}),
        (5, {"log"}),
        (6, {"save"}),
        (10, {"log", "evaluate", "save", "training_stop"}),
    ],
)
def test_default_flow(step, expected):
    assert decisions(TrainingArguments(**STEERED), step) == expected


def test_default_flow_with_everything_off():
    args = TrainingArguments(eval_strategy="no", save_strategy="no", logging_strategy="no")
    assert [decisions(args, step) for step in (1, 5, 10)] == [set(), set(), {"training_stop"}]


def test_eval_delay():
    assert decisions(TrainingArguments(**STEERED, eval_delay=5), 4) == set()
    assert decisions(TrainingArguments(**STEERED, eval_delay=5), 8) == {"evaluate"}


def test_state_is_read_by_transformers_and_read_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    state = TrainerState(epoch=1.5, global_step=3, log_history=[{"loss": 0.1 + 0.2, "step": 3}], best_metric=1.0)
    state.save_to_json(tmp_path / "trainer_state.json")
    assert TrainerState.load_from_json(tmp_path / "trainer_state.json") == state
    theirs = transformers.TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert theirs.log_history == state.log_history and theirs.global_step == 3
    theirs.save_to_json(str(tmp_path / "theirs.json"))
    assert set(json.loads((tmp_path / "theirs.json").read_text())) == set(state.to_dict())
    assert TrainerState.load_from_json(tmp_path / "theirs.json").best_metric == 1.0


def test_events_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = {name for name in dir(transformers.TrainerCallback) if name.startswith("on_")} - {"on_push_begin"}
    assert {name for name in dir(TrainerCallback) if name.startswith("on_")} == theirs


def test_callback_written_for_transformers_works():
    transformers = pytest.importorskip("transformers")
    seen = []

    class Recorder(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(logs)
            control.should_training_stop = True

    control = CallbackHandler([Recorder]).call(
        "on_log", TrainingArguments(), TrainerState(), TrainerControl(), logs={"loss": 1.0}
    )
    assert seen == [{"loss": 1.0}] and control.should_training_stop


def test_handler_adds_pops_and_refuses():
    handler = CallbackHandler([DefaultFlowCallback, EarlyStoppingCallback(2)])
    assert isinstance(handler.pop(EarlyStoppingCallback), EarlyStoppingCallback)
    assert handler.pop(EarlyStoppingCallback) is None
    with pytest.raises(ConfigError, match="must derive from TrainerCallback, got int"):
        handler.add(3)


@pytest.mark.parametrize(
    "greater, values, stops_at",
    [
        (False, [3.0, 2.0, 2.5, 2.4, 1.0], 3),
        (False, [3.0, 2.0, 2.5, 1.9, 2.0, 2.0], 5),
        (True, [0.1, 0.3, 0.2, 0.2], 3),
        (False, [3.0, float("nan"), float("nan")], 2),
        (False, [float("nan"), 3.0, 2.0, 1.0, 1.0, 1.0], 5),  # begins badly, then improves
        (False, [3.0, 2.99, 2.98, 1.0], 2),  # improvements below the threshold
    ],
)
def test_early_stopping(greater, values, stops_at):
    args = TrainingArguments(eval_strategy="steps", metric_for_best_model="score", greater_is_better=greater)
    handler = CallbackHandler([EarlyStoppingCallback(2, 0.05)])
    for index, value in enumerate(values):  # noqa: B007 (read after the loop)
        control = handler.call("on_evaluate", args, TrainerState(), TrainerControl(), metrics={"eval_score": value})
        states = json.loads(json.dumps(handler.states()))  # as if it had been stopped and resumed here
        handler = CallbackHandler([EarlyStoppingCallback(2, 0.05)])
        handler.load_states(states)
        if control.should_training_stop:
            break
    assert index == stops_at


def test_early_stopping_needs_evaluations():
    with pytest.raises(ConfigError, match="set eval_strategy"):
        EarlyStoppingCallback().on_train_begin(TrainingArguments(), TrainerState(), TrainerControl())
