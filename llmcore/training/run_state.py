"""From a trainer to the content of a checkpoint and back: weights, optimizer, schedule, data position, generators,
counters.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import _core
from llmcore.autograd import Generator
from llmcore.errors import CheckpointError
from llmcore.models import lora
from llmcore.text_file import write_text
from llmcore.training.callbacks import TrainerState
from llmcore.training.checkpoint import Checkpoint, load_checkpoint, load_newest

if TYPE_CHECKING:
    from llmcore.training.trainer import Trainer

logger = logging.getLogger("llmcore")

# training arguments that change the result: a resumed run that differs in one of them is not the run that was stopped
_SHAPING = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "data_seed",
    "train_sampling_strategy",
)


@dataclasses.dataclass
class Counters:
    """Sums of a run that are not in transformers' state but have to survive a resume."""

    optimizer_steps: int = 0
    loss_sum: float = 0.0  # over all updates
    window_loss: float = 0.0  # since the last log entry
    window_steps: int = 0
    grad_norm: float = 0.0  # of the last update
    learning_rate: float = 0.0
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    samples: int = 0
    input_tokens: int = 0
    seconds: float = 0.0


def generators(model: Any) -> list[Generator]:
    """The sources of randomness in a model, each once, in a fixed order."""
    found: dict[int, Generator] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Generator):
                found.setdefault(id(value), value)
    return list(found.values())


def weights_group(model: Any) -> str:
    """The group of tensors that holds the weights: what peft loads for an adapter, else what transformers loads."""
    return "model" if getattr(model, "peft_config", None) is None else "adapter_model"


def model_arrays(model: Any) -> dict[str, np.ndarray]:
    """The weights as arrays (bfloat16 as uint16 bits), with an adapter only what is trained: views, good until the
    next update."""
    tensors = model.state_dict() if weights_group(model) == "model" else lora.adapter_tensors(model)
    return lora.as_arrays(tensors)


def load_model_arrays(model: Any, groups: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Puts arrays as `model_arrays` gave them back into the model. Raises CheckpointError."""
    group = weights_group(model)
    if group not in groups:
        kind = "an adapter" if group == "model" else "the whole model"
        raise CheckpointError(f"the checkpoint holds {kind}, the model in training is something else")
    arrays = groups[group]
    if group == "adapter_model":
        lora.load_adapter_arrays(model, dict(arrays), "the checkpoint")
        return
    tensors = {name: to_tensor(array) for name, array in arrays.items()}
    try:
        model.load_state_dict(tensors)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's weights do not fit this model: {error.args[0]}") from None


def to_tensor(array: np.ndarray) -> _core.Tensor:
    """An array as a tensor; uint16 is read as bfloat16 bits."""
    return _core.from_bf16_bits(array) if array.dtype == np.uint16 else _core.from_numpy(array)


def collect(trainer: Trainer, with_optimizer: bool = True) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """(tensors by group, JSON-ready state by name) of a trainer; the tensors are views."""
    tensors = {weights_group(trainer.model): model_arrays(trainer.model)}
    if with_optimizer:
        tensors["optimizer"] = trainer.optimizer.state_dict(copy=False)
    trainer.counters.optimizer_steps = trainer.optimizer.steps
    trainer.state.stateful_callbacks = trainer.callback_handler.states()
    schedule = trainer.lr_scheduler
    state = {
        "trainer_state": trainer.state.to_dict(),
        "training_args": trainer.args.to_dict(),
        "loader_state": trainer.data_state,
        "rng_state": [generator.state() for generator in generators(trainer.model)],
        "scheduler_state": schedule.state_dict() if hasattr(schedule, "state_dict") else {},
        "counters": dataclasses.asdict(trainer.counters),
    }
    return tensors, state


def restore(trainer: Trainer, tensors: Mapping[str, Mapping[str, np.ndarray]], state: Mapping[str, Any]) -> None:
    """Puts what `collect` gave back into a trainer whose model and optimizer are built. Raises CheckpointError."""
    if "optimizer" not in tensors:
        raise CheckpointError(
            "the checkpoint holds no optimizer state (it was written with save_only_model=True), so training cannot "
            "resume from it; start a new run from its weights instead"
        )
    load_model_arrays(trainer.model, tensors)
    trainer.counters = Counters(**state["counters"])
    trainer.optimizer.load_state_dict(dict(tensors["optimizer"]), trainer.counters.optimizer_steps)
    trainer.state = TrainerState.from_dict(state["trainer_state"])
    trainer.callback_handler.load_states(trainer.state.stateful_callbacks)
    trainer.data_state = dict(state["loader_state"])
    own = generators(trainer.model)
    if len(own) != len(state["rng_state"]):
        raise CheckpointError(f"the checkpoint has {len(state['rng_state'])} random generators, the model {len(own)}")
    for generator, saved in zip(own, state["rng_state"], strict=True):
        generator.set_state(saved)
    if hasattr(trainer.lr_scheduler, "load_state_dict"):
        trainer.lr_scheduler.load_state_dict(state["scheduler_state"])
    now, then = trainer.args.to_dict(), state["training_args"]
    for name in _SHAPING:
        if now[name] != then.get(name):
            logger.warning("resuming with %s=%r, the checkpoint was made with %r", name, now[name], then.get(name))


def find_checkpoint(run_dir: Path, wanted: str | bool | Path | None) -> Checkpoint | None:
    """What `resume_from_checkpoint` means: None or False nothing, True the newest complete checkpoint of `run_dir`
    (an error if there is none), "auto" the same without the error, otherwise the folder itself.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is True or wanted == "auto":
        found = load_newest(run_dir)
        if found is None and wanted is True:
            raise CheckpointError(
                f"there is no checkpoint in {run_dir} to resume from; 'auto' would start anew instead"
            )
        return found
    if not Path(wanted).is_dir():
        raise CheckpointError(f"there is no checkpoint folder {wanted}; use True for the newest one in {run_dir}")
    return load_checkpoint(Path(wanted))


def write_model_files(trainer: Trainer, folder: Path) -> None:
    """config.json, generation_config.json and the tokenizer: what makes a folder with weights loadable on its own."""
    model = trainer.model
    if hasattr(model, "save_config"):
        model.save_config(folder)
    elif hasattr(getattr(model, "config", None), "to_dict"):
        write_text(folder / "config.json", json.dumps(model.config.to_dict(), indent=2, sort_keys=True) + "\n")
    if hasattr(trainer.processing_class, "save_pretrained"):
        trainer.processing_class.save_pretrained(folder)
