"""Checks and normalises the values of `TrainingArguments`; every refusal is one sentence with what to write instead."""

from __future__ import annotations

import difflib
import json
import math
import typing
from typing import TYPE_CHECKING, Any

from llmcore.errors import ConfigError

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments

_POSITIVE_INTEGERS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "max_nonfinite_steps",
)
_AT_LEAST_ZERO = (
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "max_grad_norm",
    "eval_delay",
    "num_threads",
    "adam_epsilon",
    "seed",
    "data_seed",
)
_STRATEGIES = ("logging_strategy", "eval_strategy", "save_strategy")
_LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "mse", "rmse", "mae", "error")


def check_arguments(args: TrainingArguments) -> None:
    """Normalises `args` in place; raises ConfigError for a value that cannot be."""
    _normalise(args)
    _check_types(args)
    _check_ranges(args)
    _check_combinations(args)


def _normalise(args: TrainingArguments) -> None:
    if args.output_dir is None:
        args.output_dir = "trainer_output"
    args.output_dir = str(args.output_dir)
    for name in _STRATEGIES:
        if getattr(args, name) is False:  # YAML reads `no` as false
            setattr(args, name, "no")
        setattr(args, name, _plain(getattr(args, name)))
    args.lr_scheduler_type = _plain(args.lr_scheduler_type)
    optim = str(_plain(args.optim)).lower()
    args.optim = "adamw" if optim.startswith("adamw_torch") else optim  # type: ignore[assignment]
    if isinstance(args.lr_scheduler_kwargs, str):
        try:
            args.lr_scheduler_kwargs = json.loads(args.lr_scheduler_kwargs)
        except json.JSONDecodeError as error:
            raise ConfigError(f"lr_scheduler_kwargs must be a dict or a JSON object: {error}") from None
    if isinstance(args.plot_loss, bool):
        args.plot_loss = "yes" if args.plot_loss else "no"
    if args.report_to is None or args.report_to == []:
        args.report_to = "none"
    if isinstance(args.report_to, (list, tuple)):
        args.report_to = ",".join(args.report_to)
    if isinstance(args.include_num_input_tokens_seen, bool):
        args.include_num_input_tokens_seen = "all" if args.include_num_input_tokens_seen else "no"
    if isinstance(args.memory_limit, (int, float)):
        args.memory_limit = str(args.memory_limit)
    if isinstance(args.resume_from_checkpoint, str) and args.resume_from_checkpoint.lower() in ("true", "false"):
        args.resume_from_checkpoint = args.resume_from_checkpoint.lower() == "true"
    if args.full_determinism:
        args.deterministic = True
    if args.load_best_model_at_end and args.metric_for_best_model is None:
        args.metric_for_best_model = "loss"
    if args.metric_for_best_model is not None and args.greater_is_better is None:
        args.greater_is_better = not args.metric_for_best_model.endswith(_LOWER_IS_BETTER)
    if args.eval_strategy == "steps" and args.eval_steps is None:
        args.eval_steps = args.logging_steps


def _plain(value: Any) -> Any:
    # transformers' enums (SchedulerType.COSINE and so on) are strings with a `.value`
    return getattr(value, "value", value)


def _check_types(args: TrainingArguments) -> None:
    from llmcore.training.arguments import TrainingArguments

    for name, hint in typing.get_type_hints(TrainingArguments).items():
        value = getattr(args, name)
        if typing.get_origin(hint) is typing.Literal:
            choices = typing.get_args(hint)
            if value not in choices:
                close = difflib.get_close_matches(str(value), choices, n=1)
                suggestion = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}{suggestion}")
            continue
        kinds = typing.get_args(hint) or (hint,)  # the members of a union, or the type itself
        plain_kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
        if isinstance(value, bool) and bool not in plain_kinds:
            raise ConfigError(f"{name} must be {_spell(plain_kinds)}, got {value}")
        if float in plain_kinds and isinstance(value, (int, float)) or isinstance(value, plain_kinds):
            continue
        if int in plain_kinds and isinstance(value, float) and value.is_integer():
            setattr(args, name, int(value))  # 1e4 is how people write 10000 in YAML
            continue
        raise ConfigError(f"{name} must be {_spell(plain_kinds)}, got {value!r} ({type(value).__name__})")


def _spell(kinds: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", list: "a list"}
    return " or ".join("None" if kind is type(None) else names.get(kind, kind.__name__) for kind in kinds)


def _check_ranges(args: TrainingArguments) -> None:
    from llmcore.training.arguments import SCHEDULERS, TRACKERS

    for name, value in vars(args).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} must be a finite number, got {value}")
    for name in _POSITIVE_INTEGERS:
        if getattr(args, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(args, name)}")
    for name in _AT_LEAST_ZERO:
        value = getattr(args, name)
        if value is not None and value < 0:
            raise ConfigError(f"{name} must not be negative, got {value}")
    for name in ("adam_beta1", "adam_beta2", "label_smoothing_factor"):
        if not 0 <= getattr(args, name) < 1:
            raise ConfigError(f"{name} must be at least 0 and less than 1, got {getattr(args, name)}")
    if args.warmup_steps > 1 and args.warmup_steps != int(args.warmup_steps):
        raise ConfigError(
            f"warmup_steps is a number of updates or, below 1, a part of all of them; got {args.warmup_steps}"
        )
    for name in ("logging_steps", "eval_steps", "save_steps"):
        value = getattr(args, name)
        if value is not None and (value <= 0 or value > 1 and value != int(value)):
            raise ConfigError(
                f"{name} is a number of updates from 1 on, or, below 1, a part of all of them; got {value}"
                + (f"; to turn it off set {name.replace('_steps', '_strategy')}='no'" if value <= 0 else "")
            )
    for name in ("max_train_tokens", "max_train_minutes", "save_total_limit"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be greater than 0 or None, got {value}")
    if args.max_steps == 0 or args.max_steps < -1:
        raise ConfigError(f"max_steps must be at least 1, or -1 to let num_train_epochs decide; got {args.max_steps}")
    if args.max_steps < 0 and args.num_train_epochs <= 0:
        raise ConfigError(f"num_train_epochs must be greater than 0, got {args.num_train_epochs}")
    if args.lr_scheduler_type not in SCHEDULERS:
        close = difflib.get_close_matches(str(args.lr_scheduler_type), SCHEDULERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"lr_scheduler_type must be one of {', '.join(SCHEDULERS)}, got {args.lr_scheduler_type!r}{hint}"
        )
    for tracker in args.report_to.split(","):
        if tracker not in ("none", *TRACKERS):
            raise ConfigError(
                f"report_to must be none or {', '.join(TRACKERS)}, got {tracker!r}; metrics.jsonl and metrics.csv are "
                "always written"
            )
    if not (args.device in ("auto", "cpu", "cuda") or args.device.startswith("cuda:") and args.device[5:].isdigit()):
        raise ConfigError(f"device must be auto, cpu or cuda:<number>, got {args.device!r}")
    args.memory_limit_bytes()  # raises if it cannot be read


def _check_combinations(args: TrainingArguments) -> None:
    if args.use_cpu and args.device.startswith("cuda"):
        raise ConfigError(f"use_cpu=True and device={args.device!r} contradict each other; keep one of them")
    if args.load_best_model_at_end:
        if args.eval_strategy == "no":
            raise ConfigError("load_best_model_at_end needs evaluations: set eval_strategy='steps' or 'epoch'")
        if args.save_strategy == "no" or args.save_strategy not in ("best", args.eval_strategy):
            raise ConfigError(
                "load_best_model_at_end needs a checkpoint at each evaluation: "
                f"save_strategy is {args.save_strategy!r}, "
                f"eval_strategy is {args.eval_strategy!r}; set them equal or save_strategy='best'"
            )
        multiple = args.save_strategy == "steps" and (args.save_steps / args.eval_steps)
        if multiple and multiple != int(multiple):
            raise ConfigError(
                "load_best_model_at_end needs save_steps to be a multiple of eval_steps, "
                f"got save_steps={args.save_steps} and eval_steps={args.eval_steps}"
            )
    if args.save_strategy == "best" and args.eval_strategy == "no":
        raise ConfigError("save_strategy='best' needs evaluations: set eval_strategy='steps' or 'epoch'")
    if args.save_strategy == "best" and args.metric_for_best_model is None:
        args.metric_for_best_model = "loss"
        args.greater_is_better = False
    if args.lr_scheduler_type == "reduce_lr_on_plateau" and args.eval_strategy == "no":
        raise ConfigError("lr_scheduler_type='reduce_lr_on_plateau' needs evaluations: set eval_strategy")
