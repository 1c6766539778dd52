"""The trainer: transformers' names around llmcore's loop.

Three ways to drive it, one engine: `trainer.train()`; `for step in trainer`; or `training_step(batch)` and
`optimizer_step()` for a host that owns the loop.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmcore import _core
from llmcore.errors import ConfigError, DataError
from llmcore.machine import matmul_peak_flops
from llmcore.training import run_state
from llmcore.training.checkpoint_rotation import remove_leftovers, set_aside_earlier_run
from llmcore.training.outputs import StepResult, TrainOutput
from llmcore.training.signals import StopSignals
from llmcore.training.speed import flops_per_token
from llmcore.training.startup import startup_report
from llmcore.training.trainer_evaluation import StopRequested
from llmcore.training.trainer_files import TrainerFiles
from llmcore.training.trainer_step import TrainerStep

logger = logging.getLogger("llmcore")


class Trainer(TrainerFiles):
    """Trains and evaluates a model.

    Args:
        model: a model, or the folder of one. args: `TrainingArguments`. data_collator: list of examples -> batch.
        train_dataset, eval_dataset: a `TokenLoader` or `BlockDataset`, a sequence of dicts (of ids, or of text if
        there is a
            tokenizer), or any iterable of examples or batches; eval_dataset may also be a dict of those.
        processing_class (or tokenizer): saved with the model; makes bits per byte and the data sample possible.
        model_init: makes a new model for each run, instead of `model`. compute_loss_func: (outputs, labels,
        num_items_in_batch) -> loss. compute_metrics: EvalPrediction -> dict; or an object with `update(predictions,
        labels)` and `compute()`. callbacks: `TrainerCallback`s. optimizers: (optimizer, schedule), each or None.
        on_log: called with each log entry. optimizer_cls_and_kwargs: class and settings of an optimizer of
        `llmcore.optim`. preprocess_logits_for_metrics: (logits, labels) -> what `compute_metrics` shall see.
    """

    _stop_and_save = False
    _first_step = 0
    _first_counts = (0, 0)
    _flops: float | None = None

    # ------------------------------------------------------------------------------------ three doors

    def train(self, resume_from_checkpoint: str | bool | Path | None = None) -> TrainOutput:
        """Trains to the end, or until something stops it; `stop_reason` then says what.

        Args:
            resume_from_checkpoint: a checkpoint folder; True for the newest intact one in `output_dir`; "auto" for
            the same, or a new
                run if there is none. None takes the one of the arguments.

        Returns updates made, mean loss and metrics. A new run in a folder that holds another one sets that aside.
        Raises NonFiniteError, OutOfMemoryError, CheckpointError, DataError, ConfigError.
        """
        for _ in self._run(resume_from_checkpoint):
            pass
        assert self.train_output is not None
        return self.train_output

    def __iter__(self) -> Iterator[StepResult]:
        """Trains while it is iterated over, one item per update. `stop()` ends it in good order."""
        return self._run(None)

    def stop(self, save: bool = True) -> None:
        """Ends the run after the current update, with a checkpoint if `save`."""
        self.control.should_training_stop = True
        self._stop_and_save = self._stop_and_save or save
        self.stop_reason = "stop() was called"

    def optimizer_step(self) -> StepResult:
        """Makes the update from the gradients of `training_step`, then logs, evaluates and saves as the arguments say.

        An update whose loss or gradient norm is not finite is not applied. Raises NonFiniteError after
        `max_nonfinite_steps` of them in a row, ConfigError if there is no gradient.
        """
        self.control.new_step()
        result = self._apply_update()
        self._after_update(result)
        return result

    # ----------------------------------------------------------------------------------------- a run

    def _run(self, resume: str | bool | Path | None) -> Iterator[StepResult]:
        if self.train_dataset is None:
            raise ConfigError("training needs a dataset: give train_dataset to the trainer")
        if not self._busy.acquire(blocking=False):
            raise ConfigError("this trainer is training already, in another thread or another loop")
        threads, deterministic = _core.num_threads(), _core.are_deterministic_algorithms_enabled()
        began = False
        try:
            if self.args.num_threads:
                _core.set_num_threads(self.args.num_threads)
            if not self.args.deterministic:
                _core.use_deterministic_algorithms(False)
            with StopSignals(self.args.enable_jit_checkpoint) as self._signals:
                self._begin(resume)
                began = True
                yield from self._epochs()
                if self._stop_and_save:
                    self._save()
                self._finish()
        finally:
            self._pending = None
            if began:
                self._call("on_train_end")
            _core.set_num_threads(threads)
            _core.use_deterministic_algorithms(deterministic)
            self._signals = StopSignals(enabled=False)
            self._busy.release()

    def _begin(self, resume: str | bool | Path | None) -> None:
        args, run_dir = self.args, self.run_dir
        if self.model_init is not None and self.optimizer is not None:
            self.model = self._placed(self.model_init())  # a second run starts anew
            self._join_tokenizer()
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run_dir)
        wanted = resume if resume is not None else args.resume_from_checkpoint
        checkpoint = run_state.find_checkpoint(run_dir, wanted)
        if checkpoint is None and (aside := set_aside_earlier_run(run_dir)) is not None:
            logger.warning("%s holds an earlier run; its checkpoints and metrics are now in %s", run_dir, aside.name)
        plan = self.prepare()
        if checkpoint is not None:
            planned = self.state
            run_state.restore(self, checkpoint.tensors, checkpoint.state)
            for name in ("max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps"):
                setattr(self.state, name, getattr(planned, name))  # the arguments of this run decide how far it goes
            logger.info("resuming from %s", checkpoint.path)
        self._warn_if_disk_is_small()
        self._seek()
        self._saved_step = self.state.global_step if checkpoint is not None else -1
        self._stop_and_save = False
        self._seconds_before = self.counters.seconds
        self._first_step, self._first_counts = (
            self.state.global_step,
            (self.counters.samples, self.counters.input_tokens),
        )
        self._window_tokens, self._window_seconds = 0, 0.0
        self._flops = flops_per_token(self.model, self._sequence_length() or 0)
        if self._flops:
            matmul_peak_flops(self._dtype(), self._device())  # now, while nothing else of this process runs
        self.control.new_training()
        args.to_json(run_dir / "training_args.json")
        report = startup_report(self, plan.render() if plan is not None else None)
        logger.info("%s", report)
        self._call("on_train_begin", report=report)
        if args.eval_on_start and self.state.global_step == 0:
            self.evaluate()

    def _epochs(self) -> Iterator[StepResult]:
        empty_epochs = 0
        while not self.control.should_training_stop and self.state.global_step < self.state.max_steps:
            self.control.new_epoch()
            self._call("on_epoch_begin")
            batches, step_before = iter(self.loader), self.state.global_step
            exhausted = False
            try:
                while not (self.control.should_epoch_stop or self.control.should_training_stop):
                    micro_batches = list(itertools.islice(batches, self.accumulation))
                    if not micro_batches:
                        exhausted = True
                        break
                    yield self._update(micro_batches)
                self._end_epoch(exhausted)
            except StopRequested:
                self._stop_on_signal()
                return
            if exhausted and not getattr(self.loader, "restartable", True):
                if self.state.global_step < self.state.max_steps:
                    self.stop_reason = "the training data ended"
                    logger.warning(
                        "the data ended after %d of %d updates", self.state.global_step, self.state.max_steps
                    )
                return
            # one empty epoch is what a resume at the very end of an epoch gives
            empty_epochs = empty_epochs + 1 if self.state.global_step == step_before else 0
            if empty_epochs > 1:
                raise DataError("the training data gave not a single batch in a whole epoch")

    def _end_epoch(self, exhausted: bool) -> None:
        next_epoch = {"epoch": self.data_state["epoch"] + 1, "position": 0}
        if exhausted:
            self.data_state = self.loader.state()
        elif self.control.should_epoch_stop and not self.control.should_training_stop:
            self.data_state = next_epoch
            self._seek()
        elif self._epoch(self.data_state) >= next_epoch["epoch"]:
            self.data_state = next_epoch  # stopped on the last batch: a resume must not end this epoch again
        self.control.new_step()
        self._call("on_epoch_end")
        self._log_evaluate_save()

    def _update(self, micro_batches: list[Mapping[str, Any]]) -> StepResult:
        self.control.new_step()
        self._call("on_step_begin")
        place = self.loader.state()
        items = sum(self._count_items(batch) for batch in micro_batches)
        for index, batch in enumerate(micro_batches):
            if self._signals.received is not None:
                # the checkpoint is that of the last finished update: what this one has gathered is dropped
                self._pending = None
                raise StopRequested
            if type(self).training_step is TrainerStep.training_step:
                self._add_gradients(batch, self._count_items(batch), max(1, items))
            else:
                self.training_step(batch, num_items_in_batch=max(1, items))
            if index + 1 < len(micro_batches):
                self._call("on_substep_end")
        result = self._apply_update()
        self.data_state = place
        self.state.epoch = self._epoch(place)
        result = dataclasses.replace(result, epoch=self.state.epoch)
        self._after_update(result)
        return result

    def _epoch(self, place: Mapping[str, Any]) -> float:
        samples = getattr(self.loader, "dataset", None)
        if not hasattr(samples, "__len__") or not len(samples):
            return float(place["epoch"])
        whole = len(samples)
        if getattr(self.loader, "drop_last", False):
            whole = len(self.loader) * self.loader.batch_size
        return place["epoch"] + place["position"] / whole

    def _after_update(self, result: StepResult) -> None:
        if result.skipped and self.args.logging_strategy != "no" and not self.args.logging_nan_inf_filter:
            self.control.should_log = True
        self._apply_limits()
        self._call("on_step_end")
        self._log_evaluate_save()
        self._check_finite(result)

    def _apply_limits(self) -> None:
        args = self.args
        if args.max_train_tokens is not None and self.counters.input_tokens >= args.max_train_tokens:
            self.stop_reason = f"max_train_tokens={args.max_train_tokens} is reached"
            self.control.should_training_stop = True
        if args.max_train_minutes is not None and self._seconds() >= 60 * args.max_train_minutes:
            self.stop_reason = f"max_train_minutes={args.max_train_minutes:g} is reached"
            self.control.should_training_stop = True

    # -------------------------------------------------------------------------- log, evaluate, save

    def _log_evaluate_save(self) -> None:
        if self.control.should_log and self.counters.window_steps:
            self._log_window()
        is_best = False
        if self.control.should_evaluate:
            metrics = self.evaluate()
            is_best = self._note_best(metrics)
            if hasattr(self.lr_scheduler, "step"):
                name = self.args.metric_for_best_model or "loss"
                self.lr_scheduler.step(metrics[name if name.startswith("eval_") else f"eval_{name}"])
        if self.args.save_strategy == "best":
            self.control.should_save = is_best
        if self.control.should_save:
            self._save()

    def _log_window(self) -> None:
        counters = self.counters
        logs: dict[str, Any] = {
            "loss": counters.window_loss / counters.window_steps,
            "grad_norm": counters.grad_norm,
            "learning_rate": counters.learning_rate,
        }
        if self._window_tokens and self._window_seconds:
            speed = self._window_tokens / self._window_seconds
            logs["tokens_per_second"] = round(speed, 1)
            if self._flops:
                logs["percent_of_matmul_peak"] = round(100 * self._part_of_peak(speed * self._flops), 2)
        if counters.skipped_updates:
            logs["skipped_updates"] = counters.skipped_updates
        counters.window_loss, counters.window_steps = 0.0, 0
        self._window_tokens, self._window_seconds = 0, 0.0
        self.log(logs)

    def _part_of_peak(self, achieved: float) -> float:
        """`achieved` operations a second, as a part of what the machine can do: 1 at the most.

        More than the peak shows that other work was on the machine when the peak was measured, so it is measured
        again; if that does not help, the machine has just done `achieved`.
        """
        peak = matmul_peak_flops(self._dtype(), self._device())
        if achieved > peak:
            peak = matmul_peak_flops(self._dtype(), self._device(), again=True)
        return min(1.0, achieved / peak)

    def _stop_on_signal(self) -> None:
        number = self._signals.received
        assert number is not None
        self.stop_reason = signal.Signals(number).name
        self.control.should_training_stop = True
        self.optimizer.zero_grad()
        self._save()
        logger.warning("%s: saved at update %d of %d", self.stop_reason, self.state.global_step, self.state.max_steps)

    # ------------------------------------------------------------------------------------ the end

    def _finish(self) -> None:
        state, counters = self.state, self.counters
        if state.global_step < state.max_steps and self.stop_reason is None:
            self.stop_reason = "a callback stopped the training"
        if self.args.load_best_model_at_end:
            self._load_best()
        seconds, steps = max(time.monotonic() - self._began, 1e-9), state.global_step - self._first_step
        samples, tokens = counters.samples - self._first_counts[0], counters.input_tokens - self._first_counts[1]
        applied = state.global_step - counters.skipped_updates
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(samples / seconds, 3),
            "train_steps_per_second": round(steps / seconds, 3),
            "train_tokens_per_second": round(tokens / seconds, 3),
            "train_loss": counters.loss_sum / applied if applied else float("nan"),
        }
        self.log(metrics)
        metrics["epoch"] = state.epoch
        state.save_to_json(self.run_dir / "trainer_state.json")
        self.train_output = TrainOutput(state.global_step, metrics["train_loss"], metrics)
