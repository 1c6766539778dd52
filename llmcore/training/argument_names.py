"""Names that users bring from other trainers, translated to the fields of `TrainingArguments`.

Four kinds: aliases (another spelling of a field), ignored names (meaningless here, harmless to accept), unavailable
names (they would change the result, so any value but the neutral one is refused) and refused names (their meaning
differs).
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from llmcore.errors import ConfigError

# other name -> field
ALIASES: dict[str, str] = {
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accumulation_steps": "gradient_accumulation_steps",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "warmup_ratio": "warmup_steps",
    "optimizer": "optim",
    "grad_clip": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "precision": "bf16",
    "dtype": "bf16",
    "gradient_checkpointing": "activation_checkpointing",
    "evaluation_strategy": "eval_strategy",
    "save_every": "save_steps",
    "save_interval": "save_steps",
    "save_best_model": "load_best_model_at_end",
    "resume": "resume_from_checkpoint",
    "random_state": "seed",
    "no_cuda": "use_cpu",
    "device_type": "device",
    "group_by_length": "train_sampling_strategy",
    "max_seq_length": "max_length",
}

# name -> (value that nobody needs to be told about, why it has no effect)
IGNORED: dict[str, tuple[Any, str]] = {
    "compile": (False, "the kernels are compiled already"),
    "torch_compile": (False, "the kernels are compiled already"),
    "torch_compile_backend": (None, "the kernels are compiled already"),
    "torch_compile_mode": (None, "the kernels are compiled already"),
    "use_liger_kernel": (False, "fused kernels are built in"),
    "tf32": (None, "matrix products run in float32 or bfloat16"),
    "project": ("huggingface", "no tracker uses it"),
    "log_level": ("passive", "set the level of logging.getLogger('llmcore') instead"),
    "log_level_replica": ("warning", "set the level of logging.getLogger('llmcore') instead"),
    "log_on_each_node": (True, "one process trains"),
    "eval_accumulation_steps": (None, "metrics always stream"),
    "eval_do_concat_batches": (True, "metrics always stream"),
    "dataloader_num_workers": (0, "batches are read from memory-mapped files without worker processes"),
    "dataloader_pin_memory": (True, "batches are read from memory-mapped files without worker processes"),
    "dataloader_persistent_workers": (False, "there are no worker processes"),
    "dataloader_prefetch_factor": (None, "there are no worker processes"),
    "save_safetensors": (True, "weights are always saved as safetensors"),
    "overwrite_output_dir": (False, "an earlier run in output_dir is set aside, never overwritten"),
    "do_train": (False, "call trainer.train()"),
    "do_eval": (False, "call trainer.evaluate() or set eval_strategy"),
    "do_predict": (False, "call trainer.predict()"),
    "skip_memory_metrics": (True, "memory is planned before the first step"),
    "average_tokens_across_devices": (True, "one process trains"),
    "torch_empty_cache_steps": (None, "the allocator's cache is bounded"),
    "use_cache": (False, "training never keeps a key/value cache"),
    "ddp_backend": (None, "one process trains"),
    "ddp_find_unused_parameters": (None, "one process trains"),
    "hub_always_push": (False, "nothing is uploaded during training"),
    "hub_model_id": (None, "nothing is uploaded during training"),
    "hub_private_repo": (None, "nothing is uploaded during training"),
    "hub_revision": (None, "nothing is uploaded during training"),
    "hub_strategy": ("every_save", "nothing is uploaded during training"),
    "hub_token": (None, "nothing is uploaded during training"),
    "local_rank": (-1, "one process trains"),
    "save_on_each_node": (False, "one process trains"),
    "restore_callback_states_from_checkpoint": (False, "callback states are always restored"),
}

# name -> (neutral value, what to do instead)
UNAVAILABLE: dict[str, tuple[Any, str]] = {
    "fp16": (False, "use bf16=True, or leave bf16=None for float32 on the CPU"),
    "fp16_full_eval": (False, "evaluation runs in the dtype of the weights"),
    "bf16_full_eval": (False, "evaluation runs in the dtype of the weights; bf16=True trains in bfloat16"),
    "neftune_noise_alpha": (None, "noise on the embeddings is not implemented; leave it out"),
    "push_to_hub": (False, "nothing is uploaded during training; upload output_dir afterwards with huggingface_hub"),
    "fsdp": (None, "one process trains"),
    "deepspeed": (None, "one process trains"),
    "assistant_only_loss": (False, "completion_only_loss does that for rows with 'messages', too"),
}

# name -> hint
REFUSED: dict[str, str] = {
    name: "it counts micro-batches in other tools, here max_steps counts optimizer updates: "
    "max_steps = iterations / gradient_accumulation_steps"
    for name in ("iters", "iterations", "max_iters", "num_iterations")
}

_PRECISIONS: dict[Any, bool | None] = {
    "auto": None,
    None: None,
    **dict.fromkeys(("bf16", "bf16-true", "bf16-mixed", "bfloat16", True), True),
    **dict.fromkeys(("32", "32-true", "fp32", "float32", 32, False), False),
}


def _precision(value: Any) -> bool | None:
    if value not in _PRECISIONS:
        raise ConfigError(f"precision is 'bf16', 'fp32' or 'auto', got {value!r}")
    return _PRECISIONS[value]


def _warmup_ratio(value: Any) -> float:
    if not 0 <= value < 1:
        raise ConfigError(
            f"warmup_ratio must be at least 0 and less than 1, got {value}; use warmup_steps for a number"
        )
    return value


# aliases whose value has to be translated too
_CONVERT: dict[str, Callable[[Any], Any]] = {
    "precision": _precision,
    "dtype": _precision,
    "warmup_ratio": _warmup_ratio,
    "group_by_length": lambda value: "group_by_length" if value else "random",
}


def nearest_name(name: str, known: Collection[str]) -> str | None:
    """The known field or alias that looks most like `name`, or None if nothing is close."""
    close = difflib.get_close_matches(name, [*known, *ALIASES, *IGNORED], n=1, cutoff=0.6)
    return close[0] if close else None


def translate_names(settings: Mapping[str, Any], known: Collection[str], stacklevel: int = 2) -> dict[str, Any]:
    """Replaces aliases in `settings` by the names in `known` and drops ignored names, with one warning for each.

    `-` and `_` are the same in a name. Raises TypeError for a name that is unknown, refused or given twice,
    ConfigError for a value that is not available.
    """
    translated: dict[str, Any] = {}
    given_as: dict[str, str] = {}
    for original, value in settings.items():
        name = original.replace("-", "_")
        if name in known:
            target = name
        elif name in ALIASES:
            target = ALIASES[name]
            _warn(f"{name!r} is accepted as another name of {target!r}; write {target!r}", stacklevel)
            value = _CONVERT[name](value) if name in _CONVERT else value
        elif name in IGNORED:
            neutral, why = IGNORED[name]
            if value != neutral:
                _warn(f"{name!r} is accepted and ignored: {why}", stacklevel)
            continue
        elif name in UNAVAILABLE:
            neutral, instead = UNAVAILABLE[name]
            if value and value != neutral:
                raise ConfigError(f"{name}={value!r} is not available: {instead}")
            continue
        elif name in REFUSED:
            raise TypeError(f"TrainingArguments does not take {name!r}: {REFUSED[name]}")
        else:
            close = nearest_name(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise TypeError(f"TrainingArguments has no setting {name!r}{hint}")
        if target in translated:
            raise TypeError(
                f"{target!r} was given twice: as {given_as[target]!r} and as {original!r}; keep one of them"
            )
        translated[target] = value
        given_as[target] = original
    return translated


def _warn(message: str, stacklevel: int) -> None:
    warnings.warn(message, FutureWarning, stacklevel=stacklevel + 2)
