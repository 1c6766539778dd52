"""Callbacks with the names and events of transformers, the state they see, and the ones that steer the loop.

A callback's method gets `(args, state, control, **kwargs)`; it may set the switches in `control` and need not return
it. The keyword arguments are `model`, `processing_class`, `optimizer`, `lr_scheduler`, and what the event brings
(`logs`, `metrics`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcore.errors import ConfigError
from llmcore.text_file import write_text

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments

logger = logging.getLogger("llmcore")


@dataclasses.dataclass
class TrainerState:
    """Where the run stands; the fields and the JSON are those of transformers' `trainer_state.json`."""

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, str | float | int | bool] | None = None
    stateful_callbacks: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainerState:
        """The inverse of `to_dict`; keys of other releases are dropped."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def save_to_json(self, json_path: str | Path) -> None:
        """Writes the state to a file."""
        write_text(json_path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load_from_json(cls, json_path: str | Path) -> TrainerState:
        """Reads what `save_to_json` wrote."""
        return cls.from_dict(json.loads(Path(json_path).read_text(encoding="utf-8")))


@dataclasses.dataclass
class TrainerControl:
    """Switches that callbacks set and the loop obeys."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def new_training(self) -> None:
        """Before the first step."""
        self.should_training_stop = False

    def new_epoch(self) -> None:
        """Before each epoch."""
        self.should_epoch_stop = False

    def new_step(self) -> None:
        """Before each step."""
        self.should_save = self.should_evaluate = self.should_log = False


class TrainerCallback:
    """Base of callbacks: override what you need."""

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """The trainer has been built."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Before the first step; `report` is the text of the memory plan and the data report."""

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After the last step, also after an early stop."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Before an epoch."""

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After an epoch."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Before the micro-batches of an update."""

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """After each micro-batch but the last of an update."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Gradients are complete, the update has not been made."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """The update has been made, gradients are still there."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After an update."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After an evaluation; `metrics` holds the result."""

    def on_predict(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After a prediction; `metrics` holds the result."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After a checkpoint; `checkpoint` is its path."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """After something was logged; `logs` holds it."""

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """After a batch of an evaluation; `batches` is their number, None if unknown."""


class CallbackHandler:
    """The callbacks of one trainer, called in order."""

    def __init__(self, callbacks: Iterable[TrainerCallback | type[TrainerCallback]]) -> None:
        self.callbacks: list[TrainerCallback] = []
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Appends a callback, given as an object or a class."""
        callback = callback() if isinstance(callback, type) else callback
        if not hasattr(callback, "on_step_end"):
            raise ConfigError(f"a callback must derive from TrainerCallback, got {type(callback).__name__}")
        self.callbacks.append(callback)

    def pop(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Removes a callback, given as the object or its class, and returns it; None if it is not there."""
        for index, known in enumerate(self.callbacks):
            if known is callback or isinstance(callback, type) and type(known) is callback:
                return self.callbacks.pop(index)
        return None

    def call(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Calls `event` on every callback; returns the control that the last one left."""
        for callback in self.callbacks:
            method = getattr(callback, event, None)  # a callback written for another trainer may lack an event
            result = method(args, state, control, **kwargs) if method is not None else None
            control = result if result is not None else control
        return control

    def states(self) -> dict[str, Any]:
        """The state of every callback that has one, by class name."""
        return {type(callback).__name__: callback.state() for callback in self.callbacks if hasattr(callback, "state")}

    def load_states(self, states: dict[str, Any]) -> None:
        """Gives back what `states` collected."""
        for callback in self.callbacks:
            for name, value in states.get(type(callback).__name__, {}).get("attributes", {}).items():
                setattr(callback, name, value)


class DefaultFlowCallback(TrainerCallback):
    """Decides from the arguments when to log, evaluate, save and stop."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        step = state.global_step
        if step == 1 and args.logging_first_step and args.logging_strategy != "no":
            control.should_log = True
        if args.logging_strategy == "steps" and step % state.logging_steps == 0:
            control.should_log = True
        evaluates = args.eval_strategy == "steps" and step >= args.eval_delay
        if evaluates and step % state.eval_steps == 0:
            control.should_evaluate = True
        if args.save_strategy == "steps" and step % state.save_steps == 0:
            control.should_save = True
        if 0 < state.max_steps <= step:  # 0: a host owns the loop and has set no end
            control.should_training_stop = True
        if control.should_training_stop:
            control.should_log = control.should_log or args.logging_strategy != "no"
            control.should_evaluate = control.should_evaluate or evaluates
            control.should_save = control.should_save or args.save_strategy == "steps"
        return control

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and args.eval_delay <= state.epoch:
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
        return control


class EarlyStoppingCallback(TrainerCallback):
    """Stops when `metric_for_best_model` has not improved for `early_stopping_patience` evaluations.

    An improvement must exceed `early_stopping_threshold`. The counter is part of the checkpoint.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        if early_stopping_patience < 1:
            raise ConfigError(f"early_stopping_patience must be at least 1, got {early_stopping_patience}")
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0
        self.best_metric: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        if args.eval_strategy == "no":
            raise ConfigError("early stopping needs evaluations: set eval_strategy='steps' or 'epoch'")
        if not args.load_best_model_at_end:
            logger.warning(
                "early stopping without load_best_model_at_end=True: the last weights are kept, not the best"
            )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        metrics = kwargs["metrics"]
        name = args.metric_for_best_model or "loss"
        value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
        if value is None:
            logger.warning("early stopping found no metric %r among %s", name, ", ".join(sorted(metrics)))
            return
        sign = 1.0 if args.greater_is_better else -1.0
        first = self.best_metric is None and math.isfinite(value)  # a NaN as the best could never be improved on
        if first or self.best_metric is not None and sign * (value - self.best_metric) > self.early_stopping_threshold:
            self.best_metric, self.early_stopping_patience_counter = value, 0
        else:
            self.early_stopping_patience_counter += 1  # a NaN lands here, too
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            count = self.early_stopping_patience_counter
            logger.info("early stopping: %s was not better than %s in %d evaluations", name, self.best_metric, count)
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """Settings and counters, JSON-ready."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {
                "early_stopping_patience_counter": self.early_stopping_patience_counter,
                "best_metric": self.best_metric,
            },
        }
