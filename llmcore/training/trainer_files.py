"""What the trainer writes: checkpoints, the finished model with its card, and its state for a host."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.inference import context_length
from llmcore.text_file import write_text
from llmcore.training import run_state
from llmcore.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from llmcore.training.checkpoint_rotation import rotate_checkpoints
from llmcore.training.model_card import command_line, model_card
from llmcore.training.outputs import TrainOutput
from llmcore.training.startup import data_report
from llmcore.training.trainer_evaluation import TrainerEvaluation

logger = logging.getLogger("llmcore")


class TrainerFiles(TrainerEvaluation):
    """Saving and loading in the trainer."""

    train_output: TrainOutput | None = None  # of the latest run
    _saved_step = -1

    @property
    def run_dir(self) -> Path:
        """The output folder, absolute; links in its path are resolved here, once, and refused further down."""
        return Path(self.args.output_dir or "trainer_output").resolve()

    def _save(self) -> None:
        state = self.state
        if self._saved_step == state.global_step:
            return
        run_dir, with_optimizer = self.run_dir, not self.args.save_only_model
        run_dir.mkdir(parents=True, exist_ok=True)
        self.counters.seconds = self._seconds()
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(run_dir / f"checkpoint-{state.global_step}")
        tensors, values = run_state.collect(self, with_optimizer)
        path = save_checkpoint(
            run_dir,
            state.global_step,
            tensors,
            values,
            write_extra=lambda folder: run_state.write_model_files(self, folder),
        )
        self._saved_step = state.global_step
        self._call("on_save", checkpoint=path)
        if self.args.save_total_limit is not None:
            best = [state.best_model_checkpoint] if state.best_model_checkpoint else []
            rotate_checkpoints(run_dir, self.args.save_total_limit, protect=best)

    def _load_best(self) -> None:
        if self.state.best_model_checkpoint is None:
            logger.warning("load_best_model_at_end: no evaluated checkpoint was saved, the last weights stay")
            return
        # by name: the folder may have been moved since the path was written down
        path = self.run_dir / Path(self.state.best_model_checkpoint).name
        run_state.load_model_arrays(self.model, load_checkpoint(path).tensors)
        self.optimizer.refresh_masters()
        logger.info("loaded the best weights, %s", path.name)

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Writes weights, configuration, tokenizer, arguments and the model card (README.md) into a folder.

        The default is `output_dir`; the folder loads with `from_pretrained`, here and in transformers.
        """
        folder = Path(output_dir) if output_dir is not None else self.run_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        if hasattr(self.processing_class, "save_pretrained"):
            self.processing_class.save_pretrained(folder)
        self.args.to_json(folder / "training_args.json")
        write_text(folder / "README.md", self.model_card())

    def model_card(self) -> str:
        """The text of README.md."""
        config = getattr(self.model, "config", None)
        lines = data_report(self.train_dataset, None, None) if self.train_dataset is not None else []
        return model_card(
            self.args,
            self.state,
            architecture=type(self.model).__name__,
            num_parameters=sum(parameter.data.numel for parameter in self.model.parameters()),
            vocabulary_size=getattr(config, "vocab_size", None),
            context_length=context_length(self.model),
            data="\n".join(lines),
            metrics=self.last_metrics,
            runtime=self._seconds_before + self.train_output.metrics["train_runtime"] if self.train_output else None,
            command=command_line(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint holds, as copies: `{"tensors": {group: {name: array}}, "state": {...}}`."""
        if self.optimizer is None:
            self.prepare()
        tensors, state = run_state.collect(self)
        copies = {
            group: {name: np.array(array) for name, array in members.items()} for group, members in tensors.items()
        }
        return {"tensors": copies, "state": state}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Puts what `state_dict` gave back; the next update continues from there."""
        if self.optimizer is None:
            self.prepare()
        run_state.restore(self, values["tensors"], values["state"])
        if self.loader is not None:
            self._seek()

    def checkpoints(self) -> list[Path]:
        """The checkpoint folders of this run, oldest first."""
        return list_checkpoints(self.run_dir)

    def _warn_if_disk_is_small(self) -> None:
        """A checkpoint is written beside the one before it: say so at the start if two of them will not fit."""
        if self.args.save_strategy == "no":
            return
        size = sum(group.data.nbytes + 4 * group.grads.numel * len(group.state) for group in self.optimizer.groups)
        size += sum(group.master.nbytes for group in self.optimizer.groups if group.master is not None)
        free = shutil.disk_usage(self.run_dir).free
        if free < 2 * size:
            logger.warning(
                "a checkpoint takes %.1f MiB, %.1f MiB are free in %s: the second one may not fit",
                size / 2**20,
                free / 2**20,
                self.run_dir,
            )

    def _seek(self) -> None:
        """Brings the loader to where the data of the next update lie."""
        place = dict(self.data_state)
        if self.args.ignore_data_skip:
            place = {"epoch": place["epoch"], "position": 0}
        if place != self.loader.state():
            self.loader.seek(**place)

    def _seconds(self) -> float:
        """Training time so far, of all parts of the run."""
        return self._seconds_before + time.monotonic() - self._began
