"""README.md beside a trained model: data, settings, results, the exact command, versions."""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

import llmcore
from llmcore.training.progress import format_duration

if TYPE_CHECKING:
    from llmcore.training.arguments import TrainingArguments
    from llmcore.training.callbacks import TrainerState

# shown even if they have their default value: without them a run cannot be judged
_ALWAYS = (
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "seed",
)
_NOT_SETTINGS = ("output_dir", "logging_dir", "resume_from_checkpoint", "disable_tqdm")


def command_line() -> str | None:
    """The command that started this process, ready to paste; None in a notebook or an embedded interpreter."""
    arguments = list(getattr(sys, "orig_argv", []))
    if len(arguments) < 2 or "ipykernel" in " ".join(arguments):
        return None
    program, rest = os.path.basename(arguments[0]), arguments[1:]
    if "-c" in rest[:3]:
        return None
    if os.path.basename(rest[0]) == "llmcore":  # the console script, which the shebang runs through python
        program, rest = "llmcore", rest[1:]
    return shlex.join([program, *rest])


def model_card(
    args: TrainingArguments,
    state: TrainerState,
    *,
    architecture: str,
    num_parameters: int,
    vocabulary_size: int | None = None,
    context_length: int | None = None,
    data: str | None = None,
    metrics: dict[str, Any] | None = None,
    runtime: float | None = None,
    command: str | None = None,
) -> str:
    """The card as Markdown with the hub's YAML head.

    Args:
        args, state: the run.
        architecture: class name of the model.
        num_parameters: trained numbers, tied weights once.
        data: the data report, as text.
        metrics: results of the last evaluation.
        runtime: seconds of training.
        command: the exact command; None leaves the section out.
    """
    name = args.run_name or os.path.basename(os.path.abspath(args.output_dir or "model"))
    sections = [_head(name, architecture, metrics), f"# {name}\n"]
    size = [f"{num_parameters / 1e6:,.2f} M parameters"]
    if context_length:
        size.append(f"a context of {context_length:,} tokens")
    if vocabulary_size:
        size.append(f"a vocabulary of {vocabulary_size:,}")
    sections.append(f"A `{architecture}` with {', '.join(size)}, trained with llmcore {llmcore.__version__}.\n")

    trained = [f"{state.global_step:,} updates", f"{state.epoch:.2f} epochs"]
    if state.num_input_tokens_seen:
        trained.append(f"{state.num_input_tokens_seen:,} tokens")
    if runtime is not None:
        trained.append(format_duration(runtime))
    sections.append(f"## Training\n\n{', '.join(trained)}.\n")
    if command:
        sections.append(f"```\n{command}\n```\n")
    if data:
        sections.append(f"## Data\n\n```\n{data.strip()}\n```\n")
    results = _results(state, metrics)
    if results:
        sections.append("## Results\n\n" + _table(("metric", "value"), results))
    sections.append("## Settings\n\nThose that differ from the defaults, and those that matter anyway.\n")
    sections.append(_table(("setting", "value"), _settings(args)))
    sections.append("## Made with\n\n" + _table(("what", "version"), _versions()))
    return "\n".join(sections)


def _head(name: str, architecture: str, metrics: dict[str, Any] | None) -> str:
    task = "text-generation" if architecture.endswith(("LMHeadModel", "ForCausalLM")) else None
    lines = ["---", "library_name: llmcore", "tags:", "- llmcore", "- generated_from_trainer"]
    if task:
        lines.append(f"pipeline_tag: {task}")
    return "\n".join([*lines, "---", ""])


def _results(state: TrainerState, metrics: dict[str, Any] | None) -> list[tuple[str, str]]:
    rows = []
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    if losses:
        rows.append(("last training loss", f"{losses[-1]:.4f}"))
    for name, value in (metrics or {}).items():
        if isinstance(value, (int, float)) and not name.endswith(("_runtime", "_per_second")) and name != "epoch":
            rows.append((name, f"{value:.4f}" if isinstance(value, float) else f"{value:,}"))
    if state.best_metric is not None:
        rows.append((f"best, at step {state.best_global_step}", f"{state.best_metric:.4f}"))
    return rows


def _settings(args: TrainingArguments) -> list[tuple[str, str]]:
    rows = []
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name in _ALWAYS or value != field.default and field.name not in _NOT_SETTINGS:
            whole = isinstance(value, float) and value.is_integer()
            rows.append((f"`{field.name}`", f"{int(value) if whole else value}"))
    return rows


def _versions() -> list[tuple[str, str]]:
    return [
        ("llmcore", llmcore.__version__),
        ("Python", platform.python_version()),
        ("NumPy", np.__version__),
        ("machine", f"{platform.system()} {platform.machine()}"),
    ]


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {left} | {right} |" for left, right in rows), ""])
