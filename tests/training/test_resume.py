"""A run that was stopped and resumed is the unbroken run, bit for bit (R-06, R-07); signals; damaged checkpoints."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcore.errors import CheckpointError
from llmcore.training.arguments import TrainingArguments
from llmcore.training.callbacks import EarlyStoppingCallback, TrainerCallback
from llmcore.training.metrics_log import read_metrics
from llmcore.training.trainer import Trainer

from .helpers import BigramForCausalLM, assert_equal_weights, make_rows, weights_of

ROWS = make_rows(
    count=22, ragged=True
)  # 6 micro-batches of 4, the last of 2: updates of 4, 4, 4 an epoch, or 2 + 2 + 2
TIMES = ("tokens_per_second", "runtime", "samples_per_second", "steps_per_second", "percent_of_matmul_peak")


def make_trainer(folder, rows=ROWS, model=None, callbacks=(), **settings) -> Trainer:
    settings = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.05,
        "warmup_steps": 4,
        "save_steps": 1,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "plot_loss": "no",
        "max_grad_norm": 0.1,
        **settings,
    }
    return Trainer(
        model if model is not None else BigramForCausalLM(dropout=0.3),
        TrainingArguments(str(folder), **settings),
        train_dataset=rows,
        eval_dataset=make_rows(count=6, seed=5),
        callbacks=list(callbacks),
    )


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if not name.endswith(TIMES)} for entry in history]


def assert_same_end(resumed: Trainer, unbroken: Trainer) -> None:
    assert_equal_weights(resumed.model, unbroken.model)
    theirs = unbroken.optimizer.state_dict()
    for name, array in resumed.optimizer.state_dict().items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert resumed.optimizer.steps == unbroken.optimizer.steps
    assert resumed.data_state == unbroken.data_state
    assert without_times(resumed.state.log_history) == without_times(unbroken.state.log_history)
    assert read_metrics(resumed.args.output_dir) == resumed.state.log_history  # one continuous curve


CASES = {
    "steps": {},
    "epochs": {"eval_strategy": "epoch", "logging_strategy": "epoch"},
    "sequential": {"train_sampling_strategy": "sequential"},
    "by length": {"train_sampling_strategy": "group_by_length"},
    "drop last": {"dataloader_drop_last": True, "gradient_accumulation_steps": 1},
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9"},
    "plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}, "warmup_steps": 0},
    "another number of threads": {"num_threads": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_resume_at_every_update_equals_the_unbroken_run(tmp_path, case):
    """At step 1, in warm-up, mid-epoch, at the end of an epoch, at the start of the next, after evaluations."""
    settings = CASES[case]
    unbroken = make_trainer(tmp_path / "unbroken", **{**settings, "num_threads": 0})
    unbroken.train()
    checkpoints = unbroken.checkpoints()
    assert len(checkpoints) == unbroken.state.max_steps >= 9
    for checkpoint in checkpoints[:-1]:
        moved = tmp_path / checkpoint.name  # resuming in another place than where it was written
        moved.mkdir()
        shutil.copytree(checkpoint, moved / checkpoint.name)
        model = BigramForCausalLM(seed=77, dropout=0.3)
        resumed = make_trainer(moved, model=model, **{**settings, "save_steps": 1000})
        output = resumed.train(resume_from_checkpoint=True)
        assert output.global_step == unbroken.state.max_steps
        assert_same_end(resumed, unbroken)


def test_early_stopping_counts_on_after_a_resume(tmp_path):
    settings = {"learning_rate": 0.0, "warmup_steps": 0}  # nothing improves
    unbroken = make_trainer(tmp_path / "a", callbacks=[EarlyStoppingCallback(3)], **settings)
    unbroken.train()
    assert unbroken.state.global_step == 8
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a" / "checkpoint-5", tmp_path / "b" / "checkpoint-5")
    resumed = make_trainer(tmp_path / "b", callbacks=[EarlyStoppingCallback(3)], **settings)
    resumed.train(True)
    assert_same_end(resumed, unbroken)


class Stream:
    """Examples from a host, with its own idea of a place."""

    def __init__(self, seekable: bool) -> None:
        self.next = 0
        if seekable:
            self.state = lambda: self.next
            self.seek = self._seek

    def _seek(self, place: int) -> None:
        self.next = place

    def __iter__(self):
        while True:
            self.next += 1
            yield make_rows(count=1, seed=self.next)[0]


@pytest.mark.parametrize("seekable", [True, False])
def test_iterator_fed_by_a_host_resumes_exactly(tmp_path, seekable):
    settings = {"max_steps": 8, "save_steps": 3}
    unbroken = make_trainer(tmp_path / "a", rows=Stream(seekable), **settings)
    unbroken.train()
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a" / "checkpoint-3", tmp_path / "b" / "checkpoint-3")
    resumed = make_trainer(tmp_path / "b", rows=Stream(seekable), **settings)
    resumed.train(True)
    assert_equal_weights(resumed.model, unbroken.model)


def test_older_checkpoint_is_taken_if_the_newest_is_damaged(tmp_path, caplog):
    unbroken = make_trainer(tmp_path)
    unbroken.train()
    expected = weights_of(unbroken.model)
    for name in ("checkpoint-8", "checkpoint-9"):
        os.truncate(tmp_path / name / "optimizer.safetensors", 50)
    resumed = make_trainer(tmp_path)
    resumed.train(True)
    assert "checkpoint-9" in caplog.text and "checkpoint-8" in caplog.text
    for name, weights in weights_of(resumed.model).items():
        np.testing.assert_array_equal(weights, expected[name])


def test_going_further_than_the_first_run_planned(tmp_path):
    make_trainer(tmp_path, lr_scheduler_type="constant_with_warmup").train()
    longer = make_trainer(tmp_path, lr_scheduler_type="constant_with_warmup", num_train_epochs=5)
    assert longer.train("auto").global_step == 15
    straight = make_trainer(tmp_path / "straight", lr_scheduler_type="constant_with_warmup", num_train_epochs=5)
    straight.train()
    assert_equal_weights(longer.model, straight.model)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = make_trainer(tmp_path)
    first.train()
    again = make_trainer(tmp_path, model=BigramForCausalLM(seed=3, dropout=0.3))
    assert again.train(True).global_step == 9
    assert_equal_weights(again.model, first.model)


def test_what_resume_means(tmp_path, caplog):
    with pytest.raises(CheckpointError, match="'auto' would start anew"):
        make_trainer(tmp_path / "none").train(True)
    assert make_trainer(tmp_path / "none").train("auto").global_step == 9
    with pytest.raises(CheckpointError, match="there is no checkpoint folder"):
        make_trainer(tmp_path / "none").train(str(tmp_path / "checkpoint-7"))
    trainer = make_trainer(tmp_path / "other", resume_from_checkpoint=str(tmp_path / "none" / "checkpoint-4"))
    assert trainer.train().global_step == 9
    trainer = make_trainer(tmp_path / "other", weight_decay=0.5, resume_from_checkpoint="auto")
    trainer.train()
    assert "weight_decay=0.5, the checkpoint was made with 0.0" in caplog.text


def test_checkpoint_without_optimizer_is_refused_for_resuming(tmp_path):
    make_trainer(tmp_path, save_only_model=True).train()
    assert not (tmp_path / "checkpoint-9" / "optimizer.safetensors").exists()
    with pytest.raises(CheckpointError, match="save_only_model=True"):
        make_trainer(tmp_path).train(True)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    class Other(BigramForCausalLM):
        def __init__(self) -> None:
            super().__init__()
            self.more = self.bias.__class__(self.bias.data.clone())

    make_trainer(tmp_path).train()
    with pytest.raises(CheckpointError, match="weights do not fit this model.*more"):
        make_trainer(tmp_path, model=Other()).train(True)


def test_state_dict_round_trip(tmp_path):
    unbroken = make_trainer(tmp_path / "a", save_strategy="no")
    steps = iter(unbroken)
    for _ in range(4):
        next(steps)
    state = unbroken.state_dict()
    other = make_trainer(tmp_path / "b", model=BigramForCausalLM(seed=8, dropout=0.3))
    other.load_state_dict(state)
    assert other.state.global_step == 4 and other.optimizer.steps == 4
    batch = other.loader.dataset.batch(np.arange(4))
    for trainer in (unbroken, other):  # the next update, driven by a host, is the same for both
        trainer.training_step(batch)
        trainer.optimizer_step()
    assert_equal_weights(other.model, unbroken.model)
    assert other.loader.state() == {"epoch": 1, "position": 8}


class SendSignal(TrainerCallback):
    """Sends a signal to this process at an event of an update."""

    def __init__(self, event: str, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number
        setattr(self, event, self.fire)

    def fire(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "event, saved",
    [("on_substep_end", 4), ("on_step_begin", 4), ("on_step_end", 4), ("on_prediction_step", 4), ("on_save", 4)],
)
def test_signal_saves_the_last_finished_update(tmp_path, event, saved, number):
    """R-15: between micro-batches, in an evaluation, while saving: the run goes on bit for bit."""
    unbroken = make_trainer(tmp_path / "a")
    unbroken.train()
    before = signal.getsignal(number)
    save_steps = {"on_save": 4}.get(event, 100)
    stopped = make_trainer(
        tmp_path / "b", callbacks=[SendSignal(event, 4, number)], enable_jit_checkpoint=True, save_steps=save_steps
    )
    output = stopped.train()
    assert signal.getsignal(number) is before
    assert output.global_step == saved and stopped.stop_reason == signal.Signals(number).name
    assert stopped.checkpoints()[-1].name == f"checkpoint-{saved}"
    resumed = make_trainer(tmp_path / "b", model=BigramForCausalLM(seed=9, dropout=0.3))
    resumed.train(True)
    assert_equal_weights(resumed.model, unbroken.model)


def test_signals_are_left_alone_in_the_library(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, callbacks=[SendSignal("on_step_end", 3, signal.SIGINT)]).train()


def test_second_signal_acts_as_before(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_trainer(
            tmp_path,
            callbacks=[SendSignal("on_substep_end", 3, signal.SIGINT), SendSignal("on_substep_end", 3, signal.SIGINT)],
            enable_jit_checkpoint=True,
        ).train()


LOOP = """
import sys
sys.path[:0] = [{root!r}]
from tests.training.test_resume import make_trainer
make_trainer({folder!r}, num_train_epochs=40, eval_strategy="no").train("auto")
print("done", flush=True)
"""


def test_kill_and_resume_until_done(tmp_path):
    """R-01 and R-07 for the whole trainer: killed at random moments, the end is that of the unbroken run."""
    random = np.random.default_rng(4)
    unbroken = make_trainer(tmp_path / "a", num_train_epochs=40, eval_strategy="no", save_strategy="no")
    unbroken.train()
    root = str(Path(__file__).resolve().parents[2])
    source = LOOP.format(root=root, folder=str(tmp_path / "b"))
    kills, done = 0, False
    while not done:
        process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
        if kills < 4:
            try:
                process.wait(timeout=float(random.uniform(0.3, 0.9)))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        done = "done" in process.stdout.read()
        assert process.wait() in (0, -signal.SIGKILL)
        process.stdout.close()
    resumed = make_trainer(tmp_path / "b", num_train_epochs=40, eval_strategy="no")
    resumed.train(True)
    assert_equal_weights(resumed.model, unbroken.model)
    assert not [entry for entry in (tmp_path / "b").iterdir() if entry.name.startswith(".")]
    assert [entry["step"] for entry in read_metrics(tmp_path / "b") if "loss" in entry] == [1, *range(2, 121, 2)]
