"""`TrainingArguments`: every setting of a training run, in one dataclass.

The fields are the keyword arguments, the keys of a YAML file, the command line flags and the keys of
`training_args.json`. Names and defaults are those of transformers 5; the seven differences are in
`DIFFERENT_DEFAULTS`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from pathlib import Path
from typing import Any, Literal

from llmcore.errors import ConfigError
from llmcore.text_file import write_text
from llmcore.training.argument_names import translate_names

# What differs from transformers, and why. `enable_jit_checkpoint` is True on the command line only: a host that
# embeds the library owns the signals. `deterministic` does not exist there.
DIFFERENT_DEFAULTS: dict[str, str] = {
    "bf16": "None chooses by the device: bfloat16 on GPUs that have it, float32 elsewhere",
    "logging_steps": "10 instead of 500",
    "logging_first_step": "the first step is logged: it shows that the run is alive and the loss is sane",
    "logging_nan_inf_filter": "a NaN is logged as NaN",
    "include_num_input_tokens_seen": "tokens are counted",
    "enable_jit_checkpoint": "True on the command line",
    "deterministic": "own setting: the same seed gives the same bits",
}

SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
)
OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
TRACKERS = ("tensorboard",)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclasses.dataclass
class TrainingArguments:
    """The settings of a training run. Raises TypeError for an unknown name, ConfigError for a value that cannot be."""

    output_dir: str | None = None
    """Folder for checkpoints, metrics and the model; None means trainer_output."""

    per_device_train_batch_size: int = 8
    """Sequences in one micro-batch."""

    num_train_epochs: float = 3.0
    """Passes over the training data; max_steps overrides it."""

    max_steps: int = -1
    """Optimizer updates to make; -1 lets num_train_epochs decide."""

    max_train_tokens: int | None = None
    """Stop after the update that passes this number of input tokens."""

    max_train_minutes: float | None = None
    """Stop after the update that passes this time, resumed parts included."""

    learning_rate: float = 5e-5
    """Peak learning rate."""

    lr_scheduler_type: str = "linear"
    """Schedule of the learning rate: linear, cosine, cosine_with_min_lr, constant, warmup_stable_decay, ..."""

    lr_scheduler_kwargs: dict[str, int | float | str] | None = None
    """Settings of the schedule, such as min_lr_rate 0.1 for cosine_with_min_lr."""

    warmup_steps: float = 0
    """Updates of linear warm-up; below 1 it is a part of all updates."""

    optim: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """Optimizer."""

    optim_args: str | None = None
    """Settings of the optimizer, name=value,name=value: momentum, dampening, nesterov, alpha, stochastic_rounding."""

    weight_decay: float = 0.0
    """Weight decay; never applied to norms, biases and embeddings."""

    adam_beta1: float = 0.9
    """Decay rate of Adam's first moment."""

    adam_beta2: float = 0.999
    """Decay rate of Adam's second moment."""

    adam_epsilon: float = 1e-8
    """Added to the root of Adam's second moment."""

    gradient_accumulation_steps: int = 1
    """Micro-batches in one update; their gradients are weighted by trained tokens."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 turns it off."""

    label_smoothing_factor: float = 0.0
    """Part of each target spread evenly over the vocabulary."""

    bf16: bool | None = None
    """Train in bfloat16 with float32 master weights; None lets the device decide."""

    activation_checkpointing: bool | None = None
    """Recompute activations block by block in the backward pass: less memory, about a third more time."""

    auto_find_batch_size: bool = False
    """Halve the micro-batch until the memory plan fits, with accumulation raised so that the update stays the same."""

    logging_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When to log."""

    logging_steps: float = 10
    """Updates between two log lines; below 1 it is a part of all updates."""

    logging_first_step: bool = True
    """Log the first update too."""

    logging_nan_inf_filter: bool = False
    """Leave non-finite losses out of the logged mean."""

    logging_dir: str | None = None
    """Folder for TensorBoard; None means output_dir/runs/<time>_<host>."""

    include_num_input_tokens_seen: Literal["no", "all", "non_padding"] = "non_padding"
    """Which input tokens are counted."""

    disable_tqdm: bool | None = None
    """False shows progress; None and True keep the terminal quiet (the command line sets False)."""

    report_to: str = "none"
    """Trackers besides metrics.jsonl and metrics.csv: none or tensorboard."""

    run_name: str | None = None
    """Name of the run in the model card and in TensorBoard."""

    plot_loss: Literal["auto", "yes", "no"] = "auto"
    """Draw loss.png at the end; auto does it if matplotlib is installed."""

    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """When to evaluate."""

    eval_steps: float | None = None
    """Updates between two evaluations; None means logging_steps, below 1 it is a part of all updates."""

    eval_delay: float = 0
    """Updates (or epochs) before the first evaluation."""

    per_device_eval_batch_size: int = 8
    """Sequences in one batch of evaluation."""

    prediction_loss_only: bool = False
    """Evaluate the loss only, no compute_metrics."""

    eval_on_start: bool = False
    """Evaluate before the first update."""

    batch_eval_metrics: bool = False
    """Call compute_metrics(prediction, compute_result) after every batch instead of once at the end."""

    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    """When to write a checkpoint."""

    save_steps: float = 500
    """Updates between two checkpoints; below 1 it is a part of all updates."""

    save_total_limit: int | None = None
    """Checkpoints to keep; the best and the newest intact one always stay."""

    save_only_model: bool = False
    """Leave the optimizer out of checkpoints; training cannot resume from them."""

    enable_jit_checkpoint: bool = False
    """Save a checkpoint on SIGTERM or SIGINT, then stop."""

    load_best_model_at_end: bool = False
    """Load the best checkpoint's weights after training."""

    metric_for_best_model: str | None = None
    """Metric that decides which model is best; None means loss."""

    greater_is_better: bool | None = None
    """Whether a greater metric is better; None means yes, but for losses, perplexity, bits_per_byte, mse, rmse, mae."""

    resume_from_checkpoint: str | bool | None = None
    """A checkpoint folder, true for the newest complete one, or auto for the same without an error if there is none."""

    ignore_data_skip: bool = False
    """Start the epoch anew after a resume instead of going on where the data stopped."""

    seed: int = 42
    """Seed of dropout, and of the data order if data_seed is not given."""

    data_seed: int | None = None
    """Seed of the data order."""

    deterministic: bool = True
    """The same seed gives the same bits; False allows kernels that are faster without that (on Hopper GPUs so far)."""

    full_determinism: bool = False
    """The same as deterministic; kept for scripts that set it."""

    use_cpu: bool = False
    """Train on the CPU even if there is a GPU."""

    device: str = "auto"
    """auto (a GPU where there is one that this build can use), cpu, cuda or cuda:0. The model is moved there."""

    cuda_graphs: bool = True
    """On a GPU, start all kernels of a micro-batch by one call, once its shape has come before: the same results."""

    num_threads: int = 0
    """CPU threads of the kernels; 0 means all that this process may use."""

    memory_limit: str | None = None
    """Refuse to start above this much memory, such as 8GiB; None means what is free."""

    max_nonfinite_steps: int = 3
    """Stop after this many updates in a row with a NaN or infinite loss or gradient; such updates are never applied."""

    dataloader_drop_last: bool = False
    """Leave out an incomplete last batch."""

    remove_unused_columns: bool = True
    """Drop columns that the model does not take."""

    label_names: list[str] | None = None
    """Names of the label columns; None means labels."""

    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = "random"
    """Order of the training examples."""

    max_length: int = 1024
    """Longest sequence of tokenized text rows, in tokens; the model's context bounds it too."""

    packing: bool = False
    """Put several tokenized text rows into one of up to max_length tokens, so that little is padded."""

    packing_strategy: Literal["bfd", "wrapped"] = "bfd"
    """bfd: best-fit decreasing, rows stay whole and do not see one another; wrapped: joined and cut into blocks."""

    dataset_text_field: str = "text"
    """Column of text rows that holds the text."""

    completion_only_loss: bool | None = None
    """Train on the completion only; None means yes for rows with a prompt and a completion."""

    def __post_init__(self) -> None:
        from llmcore.training.argument_checks import check_arguments

        check_arguments(self)

    @property
    def train_batch_size(self) -> int:
        """Sequences in one micro-batch."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Sequences in one batch of evaluation."""
        return self.per_device_eval_batch_size

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Warm-up in updates: `warmup_steps` itself from 1 on, below 1 that part of all updates, rounded up."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(num_training_steps * self.warmup_steps)

    def memory_limit_bytes(self) -> int | None:
        """`memory_limit` in bytes."""
        return None if self.memory_limit is None else parse_bytes(self.memory_limit)

    def to_dict(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        return dataclasses.asdict(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """The fields as JSON text, also written to `path` if one is given."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> TrainingArguments:
        """Reads what `to_json` wrote: JSON text or the path of a file."""
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"training arguments must be a JSON object, got text that is not JSON: {error}") from None
        if not isinstance(settings, dict):
            raise ConfigError(f"training arguments must be a JSON object, got {type(settings).__name__}")
        return cls(**settings)


FIELD_NAMES: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(TrainingArguments))
_generated_init = TrainingArguments.__init__


@functools.wraps(_generated_init)
def _init(self: TrainingArguments, output_dir: str | None = None, **settings: Any) -> None:
    # dataclasses cannot take a keyword that is no field, hence this wrapper for aliases and unknown names
    if output_dir is not None:
        settings = {"output_dir": output_dir, **settings}
    _generated_init(self, **translate_names(settings, FIELD_NAMES))


TrainingArguments.__init__ = _init  # type: ignore[method-assign]


def parse_bytes(text: str | int | float) -> int:
    """`"8GiB"`, `"500 MB"`, `"2e9"` or a number in bytes; raises ConfigError for anything else."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?\s*", str(text), flags=re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(f"a memory size is a number with a unit, such as '8GiB' or '500MB', got {text!r}")
    try:
        return int(float(match[1]) * _UNITS[match[2].lower()])
    except ValueError:
        raise ConfigError(f"a memory size is a number with a unit, such as '8GiB' or '500MB', got {text!r}") from None
