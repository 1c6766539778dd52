"""The trainer's loop: what it returns and writes, accumulation, non-finite steps, limits, early stopping, drivers."""

from __future__ import annotations

import gc
import logging
import math
import shutil
import signal
import threading
from typing import Any

import numpy as np
import pytest

from llmcore import _core
from llmcore.data.shards import TokenShard
from llmcore.errors import CheckpointError, ConfigError
from llmcore.optim import SGD
from llmcore.training.arguments import TrainingArguments
from llmcore.training.callbacks import EarlyStoppingCallback, TrainerCallback, TrainerState
from llmcore.training.checkpoint import load_checkpoint
from llmcore.training.metrics_log import read_metrics
from llmcore.training.outputs import NonFiniteError
from llmcore.training.trainer import Trainer

from .helpers import BigramForCausalLM, assert_equal_weights, make_rows, weights_of


def make_trainer(folder, model=None, rows=None, **settings) -> Trainer:
    keywords = {name: settings.pop(name) for name in list(settings) if name in KEYWORDS}
    settings = {"learning_rate": 0.05, "per_device_train_batch_size": 4, "plot_loss": "no", **settings}
    return Trainer(
        model if model is not None else BigramForCausalLM(),
        TrainingArguments(str(folder), **settings),
        train_dataset=make_rows() if rows is None else rows,
        **keywords,
    )


KEYWORDS = (
    "eval_dataset callbacks compute_metrics compute_loss_func on_log processing_class optimizers model_init "
    "optimizer_cls_and_kwargs data_collator preprocess_logits_for_metrics"
).split()


def test_output_and_files(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=10, eval_dataset=make_rows(seed=1), eval_strategy="epoch")
    output = trainer.train()
    assert output.global_step == 60 and trainer.stop_reason is None
    assert set(output.metrics) == {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "train_tokens_per_second",
        "train_loss",
        "epoch",
    }
    assert output.metrics["epoch"] == 10.0 and output.training_loss == output.metrics["train_loss"]
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert set(history[0]) == {
        *("loss", "grad_norm", "learning_rate", "epoch", "step", "tokens_per_second", "num_input_tokens_seen")
    }
    assert sum("eval_loss" in entry for entry in history) == 10
    assert trainer.state.num_input_tokens_seen == 10 * 24 * 9
    assert read_metrics(tmp_path) == history
    assert TrainerState.load_from_json(tmp_path / "trainer_state.json").log_history == history
    assert TrainingArguments.from_json(tmp_path / "training_args.json") == trainer.args


def test_logged_loss_is_the_mean_since_the_last_entry(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=7, logging_steps=3)
    losses = [step.loss for step in trainer]
    logged = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    expected = [(1, losses[0]), (3, np.mean(losses[1:3])), (6, np.mean(losses[3:6])), (7, losses[6])]
    assert dict(logged) == pytest.approx(dict(expected))
    assert trainer.train_output.training_loss == pytest.approx(np.mean(losses))


def test_learning_rate_follows_the_schedule(tmp_path):
    settings = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    trainer = make_trainer(tmp_path, max_steps=20, warmup_steps=0.2, **settings)
    rates = [step.learning_rate for step in trainer]
    assert rates[:5] == pytest.approx([0.0, 0.0125, 0.025, 0.0375, 0.05])
    assert rates[12] == pytest.approx(0.05 * (0.1 + 0.9 * 0.5))


@pytest.mark.parametrize("batch_size, accumulation", [(8, 1), (1, 8), (2, 4), (3, 3)])
def test_accumulation_equals_the_full_batch(tmp_path, batch_size, accumulation):
    """R-10: micro-batches with different numbers of trained tokens, the last window of the epoch included."""
    rows = make_rows(count=24, ragged=True)
    sizes = {"per_device_train_batch_size": batch_size * accumulation, "gradient_accumulation_steps": 1}
    settings = {"num_train_epochs": 3, "optim": "sgd", "learning_rate": 0.5, "logging_steps": 1}
    whole = make_trainer(tmp_path / "whole", rows=rows, **settings, **sizes)
    parts = make_trainer(
        tmp_path / "parts",
        rows=rows,
        **settings,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
    )
    whole_losses, part_losses = [step.loss for step in whole], [step.loss for step in parts]
    assert part_losses == pytest.approx(whole_losses, rel=1e-6)
    for name, weights in weights_of(whole.model).items():
        np.testing.assert_allclose(weights_of(parts.model)[name], weights, rtol=1e-6, atol=1e-6)


def test_host_that_owns_the_loop_makes_the_same_updates(tmp_path):
    rows = make_rows(ragged=True)
    settings = {"train_sampling_strategy": "sequential", "optim": "sgd", "lr_scheduler_type": "constant"}
    trained = make_trainer(tmp_path / "a", rows=rows, gradient_accumulation_steps=2, num_train_epochs=1, **settings)
    expected = [step.loss for step in trained]
    host = Trainer(BigramForCausalLM(), TrainingArguments(str(tmp_path / "b"), learning_rate=0.05, **settings))
    losses = []
    for start in range(0, 24, 8):
        for first in (start, start + 4):
            batch = {name: np.array([row[name] for row in rows[first : first + 4]]) for name in ("input_ids", "labels")}
            assert host.training_step(batch) > 0
        losses.append(host.optimizer_step().loss)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert host.state.global_step == 3 and not host.control.should_training_stop
    for name, weights in weights_of(trained.model).items():
        np.testing.assert_allclose(weights_of(host.model)[name], weights, rtol=1e-6, atol=1e-6)
    with pytest.raises(ConfigError, match="call training_step"):
        host.optimizer_step()


class PoisonedModel(BigramForCausalLM):
    """Its loss is not finite in the given updates."""

    def __init__(self, steps: set[int], value: float = math.nan) -> None:
        super().__init__()
        self.steps, self.value, self.calls = steps, value, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = super().__call__(*args, **kwargs)
        if self.training and output.loss is not None:
            self.calls += 1
            if self.calls in self.steps:
                output.loss = output.loss * self.value
        return output


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_update_is_skipped_and_logged(tmp_path, value):
    """R-08: weights as before, the log shows nan, checkpoints hold finite numbers only."""
    trainer = make_trainer(tmp_path, PoisonedModel({3, 5}, value), max_steps=8, logging_steps=100, save_steps=1)
    before: dict[str, np.ndarray] = {}
    for step in trainer:
        assert step.skipped == (step.global_step in (3, 5))
        after = weights_of(trainer.model)
        if step.skipped:
            for name, weights in after.items():
                np.testing.assert_array_equal(weights, before[name])
        before = after
    assert trainer.optimizer.steps == 6
    logged = {entry["step"]: entry["loss"] for entry in read_metrics(tmp_path) if "loss" in entry}
    assert not math.isfinite(logged[3]) and not math.isfinite(logged[5]) and math.isfinite(logged[8])
    assert math.isfinite(trainer.train_output.training_loss)
    assert len(trainer.checkpoints()) == 8
    for path in trainer.checkpoints():
        for members in load_checkpoint(path).tensors.values():
            assert all(np.isfinite(array).all() for array in members.values())


def test_training_stops_after_several_non_finite_updates(tmp_path):
    trainer = make_trainer(tmp_path, PoisonedModel({2, 4, 5, 6}), max_steps=20, max_nonfinite_steps=3)
    with pytest.raises(NonFiniteError, match="step 6.*3 updates in a row") as caught:
        trainer.train()
    assert (caught.value.step, caught.value.exit_code) == (6, 3) and math.isnan(caught.value.loss)
    assert all(np.isfinite(weights).all() for weights in weights_of(trainer.model).values())
    assert read_metrics(tmp_path)[-1]["step"] == 6
    with pytest.raises(NonFiniteError):  # the lock was released
        make_trainer(tmp_path, PoisonedModel({1}), max_steps=3, max_nonfinite_steps=1).train()


def test_nan_filter_of_transformers(tmp_path):
    trainer = make_trainer(tmp_path, PoisonedModel({2}), max_steps=3, logging_steps=3, logging_nan_inf_filter=True)
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_may_be_faster_while_a_run_lasts_that_allows_it(tmp_path, deterministic):
    trainer = make_trainer(tmp_path, max_steps=2, deterministic=deterministic)
    assert [_core.are_deterministic_algorithms_enabled() for _ in trainer] == [deterministic] * 2
    assert _core.are_deterministic_algorithms_enabled()


def test_gradients_are_clipped(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=1e-3)
    before = weights_of(trainer.model)
    (step,) = list(trainer)
    assert step.grad_norm > 0.01  # what is logged is the norm before
    after = weights_of(trainer.model)
    moved = math.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in before))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_limits_on_tokens_and_time(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "a", num_train_epochs=50, max_train_tokens=100)
    trainer.train()
    assert trainer.state.num_input_tokens_seen == 108 and "max_train_tokens" in trainer.stop_reason
    trainer = make_trainer(tmp_path / "b", num_train_epochs=50, max_train_minutes=2.0)
    for step in trainer:
        if step.global_step == 4:
            trainer._began -= 121
    assert trainer.state.global_step == 5 and "max_train_minutes=2" in trainer.stop_reason
    assert trainer.checkpoints()[-1].name == "checkpoint-5"


class Score:
    """compute_metrics whose results are given beforehand."""

    def __init__(self, values):
        self.values = iter(values)

    def __call__(self, prediction):
        return {"score": next(self.values)}


def test_early_stopping_and_best_model(tmp_path):
    seen: dict[int, dict[str, np.ndarray]] = {}
    trainer = make_trainer(
        tmp_path,
        max_steps=50,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        eval_dataset=make_rows(count=4),
        compute_metrics=Score([0.1, 0.5, 0.4, 0.3, 0.2]),
        callbacks=[EarlyStoppingCallback(2)],
    )
    for step in trainer:
        seen[step.global_step] = weights_of(trainer.model)
    assert trainer.state.global_step == 8 and trainer.stop_reason == "a callback stopped the training"
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.5, 4)
    assert [path.name for path in trainer.checkpoints()] == ["checkpoint-4", "checkpoint-8"]  # best and newest
    for name, weights in weights_of(trainer.model).items():
        np.testing.assert_array_equal(weights, seen[4][name])


def test_save_strategy_best(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=10,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="best",
        metric_for_best_model="score",
        eval_dataset=make_rows(count=4),
        compute_metrics=Score([0.1, 0.5, 0.4, 0.6, 0.2]),
    )
    trainer.train()
    assert [path.name for path in trainer.checkpoints()] == ["checkpoint-2", "checkpoint-4", "checkpoint-8"]


def test_plateau_schedule_lowers_the_rate(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=1,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.5},
        metric_for_best_model="score",
        greater_is_better=False,
        eval_dataset=make_rows(count=4),
        compute_metrics=Score([1.0, 0.9, 0.9, 0.8, 0.9, 0.9]),
    )
    rates = [step.learning_rate for step in trainer]
    assert rates == pytest.approx([0.05, 0.05, 0.05, 0.025, 0.025, 0.0125])


def test_events_come_in_transformers_order(tmp_path):
    events = []

    class Recorder(TrainerCallback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda *args, **kwargs: events.append(name[3:])
            return super().__getattribute__(name)

    rows = make_rows(count=8)
    make_trainer(
        tmp_path,
        rows=rows,
        num_train_epochs=1,
        gradient_accumulation_steps=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        eval_dataset=rows,
        callbacks=[Recorder],
    ).train()
    step = "step_begin substep_end pre_optimizer_step optimizer_step step_end log"
    end = "epoch_end prediction_step log evaluate save log train_end"
    assert " ".join(events) == f"init_end train_begin epoch_begin {step} {end}"


def test_iterator_stops_in_good_order(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=50, save_strategy="no")
    for step in trainer:
        assert math.isfinite(step.loss) and step.tokens == 36 and step.tokens_per_second > 0
        if step.global_step == 5:
            trainer.stop(save=True)
    assert trainer.state.global_step == 5 and trainer.stop_reason == "stop() was called"
    assert [path.name for path in trainer.checkpoints()] == ["checkpoint-5"]
    assert trainer.train_output.global_step == 5


def test_iterator_that_is_left_frees_the_trainer(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=50)
    for step in trainer:
        if step.global_step == 2:
            with pytest.raises(ConfigError, match="training already"):
                next(iter(trainer))
            break
    del step
    gc.collect()
    assert trainer.train().global_step == 50


def test_stop_without_saving(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=50, save_strategy="no")
    for step in trainer:
        if step.global_step == 3:
            trainer.stop(save=False)
    assert trainer.checkpoints() == []


def test_two_trainers_in_two_threads_do_not_disturb_each_other(tmp_path):
    alone = [make_trainer(tmp_path / f"alone{index}", BigramForCausalLM(index), max_steps=30) for index in (0, 1)]
    together = [make_trainer(tmp_path / f"both{index}", BigramForCausalLM(index), max_steps=30) for index in (0, 1)]
    for trainer in alone:
        trainer.train()
    threads = [threading.Thread(target=trainer.train) for trainer in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        assert_equal_weights(one.model, other.model)


def test_new_run_sets_an_earlier_one_aside(tmp_path, caplog):
    make_trainer(tmp_path, max_steps=30, save_steps=10).train()
    trainer = make_trainer(tmp_path, max_steps=5)
    trainer.train()
    assert [path.name for path in trainer.checkpoints()] == ["checkpoint-5"]
    assert (tmp_path / "earlier-1" / "checkpoint-30").is_dir() and "earlier-1" in caplog.text
    assert max(entry["step"] for entry in read_metrics(tmp_path)) == 5


def test_small_disk_is_noticed_at_the_start(tmp_path, caplog, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    needed = 3 * 4 * 16 * 9  # weights and two moments of 11 x 11 and 11 numbers, each in whole cache lines
    for free, noticed in ((2 * needed - 1, True), (2 * needed + 4096, False)):
        caplog.clear()
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        trainer = make_trainer(tmp_path, max_steps=1)
        with pytest.raises(CheckpointError, match="are free"):  # the check before each save is another one
            trainer.train()
        assert ("the second one may not fit" in caplog.text) == noticed


def test_model_init_optimizers_and_on_log(tmp_path):
    logs: list[dict[str, Any]] = []
    trainer = Trainer(
        model_init=lambda: BigramForCausalLM(3),
        args=TrainingArguments(str(tmp_path / "a"), max_steps=3, plot_loss="no", per_device_train_batch_size=4),
        train_dataset=make_rows(),
        optimizer_cls_and_kwargs=(SGD, {"momentum": 0.9, "learning_rate": 0.1}),
        on_log=logs.append,
    )
    trainer.train()
    first = weights_of(trainer.model)
    assert isinstance(trainer.optimizer, SGD) and trainer.optimizer.momentum == 0.9
    assert "loss" in logs[0] and "train_runtime" in logs[-1]
    trainer.train()  # a new model each time
    for name, weights in weights_of(trainer.model).items():
        np.testing.assert_array_equal(weights, first[name])
    model = BigramForCausalLM()
    own = SGD(model, learning_rate=1.0)
    trainer = make_trainer(tmp_path / "b", model, max_steps=2, optimizers=(own, lambda step: 0.5))
    assert [step.learning_rate for step in trainer] == [0.025, 0.025]
    assert trainer.optimizer is own


def test_compute_loss_can_be_overridden_and_given(tmp_path):
    def loss_function(outputs, labels, num_items_in_batch=None):
        from llmcore import functional as F

        return F.mean(outputs.logits)

    given = make_trainer(tmp_path / "a", max_steps=1, compute_loss_func=loss_function, logging_steps=1)
    (step,) = list(given)

    class Mine(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return loss_function(model(inputs["input_ids"]), None)

    own = Mine(BigramForCausalLM(), given.args, train_dataset=make_rows())
    assert own.training_step(given.loader.dataset.batch(np.arange(4)), 1) == pytest.approx(step.loss, abs=0.05)


def test_objective_without_labels(tmp_path):
    from llmcore import functional as F

    rows = [{"input_ids": row["input_ids"]} for row in make_rows(8)]
    loss_function = lambda outputs, labels, num_items_in_batch: F.mean(F.mul(outputs.logits, outputs.logits))  # noqa: E731
    steps = list(make_trainer(tmp_path, rows=rows, compute_loss_func=loss_function, max_steps=4))
    assert not any(step.skipped for step in steps) and steps[-1].loss < steps[0].loss


def test_update_without_a_trained_token_is_skipped_and_says_so(tmp_path, caplog):
    rows = [{"input_ids": [1, 2, 3], "labels": [-100] * 3}] * 4
    trainer = make_trainer(tmp_path, rows=rows, max_steps=4, max_nonfinite_steps=2)
    before = weights_of(trainer.model)
    trainer.train()  # nothing is infinite, so nothing stops it
    assert "step 4: every label is -100: the update is skipped" in caplog.text
    for name, weights in weights_of(trainer.model).items():
        np.testing.assert_array_equal(weights, before[name])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rows": []}, "dataset is empty"),
        ({"rows": 3}, "sequence of dicts, an iterable"),
        ({"rows": object.__new__(TokenShard)}, r"got TokenShard: give BlockDataset\(shard, block_size\)"),
        ({"rows": [{"x": 1}]}, r"none of the dataset's columns \(x\)"),
        ({"rows": "text.txt"}, "a dataset is not a path, got 'text.txt'"),
        ({"rows": ["a", "b"]}, r"write \[\{'text': text\}"),
        ({"rows": {"train": make_rows(), "test": make_rows()}}, "a dict with train, test: give one of its entries"),
        ({"rows": [{"input_ids": [1, 2]}]}, "the batch has no 'labels'"),
        ({"rows": iter(make_rows())}, "max_steps must say"),
        ({"device": "cuda:99"}, "(?i)cuda"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(tmp_path, settings, message):
    with pytest.raises(Exception, match=message) as caught:
        make_trainer(tmp_path, **settings).train()
    assert "\n" not in str(caught.value)


def test_wrong_construction_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="either model or model_init"):
        Trainer()
    with pytest.raises(ConfigError, match="another name of processing_class"):
        Trainer(BigramForCausalLM(), processing_class=object(), tokenizer=object())
    with pytest.raises(ConfigError, match="args must be TrainingArguments, got dict"):
        Trainer(BigramForCausalLM(), {"output_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match="got type; a function that makes a model is model_init="):
        Trainer(BigramForCausalLM)
    with pytest.raises(ConfigError, match="give train_dataset"):
        Trainer(BigramForCausalLM(), TrainingArguments(str(tmp_path))).train()
    with pytest.raises(ConfigError, match="set max_steps, or"):
        Trainer(BigramForCausalLM(), TrainingArguments(str(tmp_path))).training_step({"input_ids": [[1]]})


def test_no_global_state_is_left(tmp_path):
    before = (signal.getsignal(signal.SIGTERM), logging.getLogger().handlers[:], np.random.get_state()[1].tolist())
    make_trainer(tmp_path, max_steps=3, enable_jit_checkpoint=True, num_threads=1).train()
    after = (signal.getsignal(signal.SIGTERM), logging.getLogger().handlers[:], np.random.get_state()[1].tolist())
    assert before == after
