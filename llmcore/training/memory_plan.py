"""How much memory a training run will take, said before step 1, and what would make it fit.

Weights, gradients and optimizer state are exact: they are the flat buffers of `llmcore.optim`. Activations are
counted, architecture by architecture, in `activation_counts`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcore import _core
from llmcore.errors import OutOfMemoryError
from llmcore.machine import is_gpu
from llmcore.training.activation_counts import ACTIVATIONS, MicroBatch, block_size

# float32 values of state per parameter, and the same with momentum where it is optional
_STATES = {"adamw": 2, "adam": 2, "sgd": 0, "rmsprop": 1}
_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes by purpose. `activations` is None for an architecture without a count."""

    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    workspace: int
    available: int
    device: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> int:
        """The sum of all parts that are known."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0) + self.workspace

    @property
    def fits(self) -> bool:
        """Whether the run fits into what is there."""
        return self.total <= self.available

    def render(self) -> str:
        """One line: `memory: weights 0.5 + gradients 0.5 + ... = 5.1 of 24.0 GiB (cpu)`."""
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        if self.activations is not None:
            parts["activations"] = self.activations
        parts["workspace"] = self.workspace
        unit, size = ("GiB", _GIB) if self.total >= _GIB else ("MiB", 1 << 20)
        listed = " + ".join(f"{name} {value / size:.1f}" for name, value in parts.items())
        unknown = "" if self.activations is not None else " + activations (no count for this architecture)"
        total = f"{self.total / size:.1f} of {self.available / size:,.1f} {unit}"
        return f"memory: {listed}{unknown} = {total} ({self.device})"


def plan_memory(
    config: Any,
    num_parameters: int,
    *,
    num_frozen: int = 0,
    batch_size: int,
    sequence_length: int,
    optim: str = "adamw",
    momentum: bool = False,
    bf16: bool = False,
    stochastic_rounding: bool = False,
    activation_checkpointing: bool = False,
    predicts_words: bool = True,
    device: str = "cpu",
    available: int | None = None,
) -> MemoryPlan:
    """The plan of a run.

    Args:
        config: the model's configuration.
        num_parameters: all numbers, tied weights once; num_frozen: those among them that are not trained.
        batch_size, sequence_length: of one micro-batch.
        optim, momentum: the optimizer, and whether it keeps a momentum buffer besides.
        bf16: weights and activations in bfloat16, then with float32 master weights unless `stochastic_rounding`.
        activation_checkpointing: only the inputs of blocks are kept.
        predicts_words: the head gives scores of the vocabulary, and not of a few classes.
        available: bytes that may be used; None asks the machine.
    """
    element = 2 if bf16 else 4
    states = _STATES[optim] + (1 if momentum else 0) + (1 if bf16 and not stochastic_rounding else 0)
    sizes = {
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "activation_checkpointing": activation_checkpointing,
    }
    # frozen weights stay where they are; the buffers of an adapter are small, and their split does not matter
    groups = [num_parameters - num_frozen] if num_frozen else _flat_groups(config, num_parameters)
    count = ACTIVATIONS.get(getattr(config, "model_type", ""))
    activations, workspace = (None, 0)
    if count is not None:
        batch = MicroBatch(**sizes, element=element, words=predicts_words, on_gpu=is_gpu(device))
        activations, workspace = count(config, batch)
    return MemoryPlan(
        weights=num_frozen * element + sum(block_size(size * element) for size in groups),
        gradients=sum(block_size(size * 4) for size in groups),
        optimizer=states * sum(block_size(size * 4) for size in groups),
        activations=activations,
        workspace=workspace,
        available=available_memory(device) if available is None else available,
        device=device,
        settings=sizes,
    )


def _flat_groups(config: Any, num_parameters: int) -> list[int]:
    """Elements of the optimizer's two buffers, with and without weight decay; one where the split is not known."""
    if not hasattr(config, "dimensions") or config.dimensions().parameters != num_parameters:
        return [num_parameters]  # another model than the one with the head that `dimensions` describes
    undecayed = config.dimensions().without_weight_decay
    return [num_parameters - undecayed, undecayed]


def available_memory(device: str = "cpu") -> int:
    """Bytes that this process may still take on a device. Of the host's memory that is the smaller of what the machine
    has free and what its cgroup leaves; of a GPU's, what no process holds."""
    if is_gpu(device):
        return _core.device_facts(device)["free_bytes"]
    limits = [_meminfo("MemAvailable")]
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),  # cgroup v2
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # cgroup v1
    ):
        limit, usage = _number(limit_file), _number(usage_file)
        if limit is not None and usage is not None:
            limits.append(max(0, limit - usage + _inactive_file(limit_file)))
    return min(limit for limit in limits if limit is not None)


def _cgroup(name: str) -> Path:
    root = Path("/sys/fs/cgroup")
    try:
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))[3:]
    except (OSError, StopIteration):
        return root / name
    path = root / own.lstrip("/") / name
    return path if path.exists() else root / name


def _number(name: str) -> int | None:
    try:
        text = _cgroup(name).read_text().strip()
    except OSError:
        return None
    # v1 writes a huge number for "no limit"
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def _inactive_file(limit_file: str) -> int:
    """Page cache that the kernel gives back before it kills: counted as used by the cgroup, free for us."""
    folder = "memory/" if limit_file.startswith("memory/") else ""
    try:
        lines = _cgroup(f"{folder}memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        import os

        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def refuse(plan: MemoryPlan, replan: Callable[..., MemoryPlan], accumulation: int) -> OutOfMemoryError:
    """The error for a plan that does not fit: the greatest parts, and up to three settings that do, the update
    unchanged.

    `replan(batch_size=..., activation_checkpointing=..., sequence_length=...)` gives the plan for other settings.
    """
    parts = {"weights": plan.weights, "gradients": plan.gradients, "optimizer": plan.optimizer}
    parts["activations"] = plan.activations or 0
    greatest = sorted(parts.items(), key=lambda part: -part[1])[:2]
    named = " and ".join(f"{name} {value / _GIB:.2f} GiB" for name, value in greatest)
    found = []
    batch, length = plan.settings["batch_size"], plan.settings["sequence_length"]
    for checkpointing in dict.fromkeys((plan.settings["activation_checkpointing"], True)):
        for smaller, factor in ((batch // factor, factor) for factor in (1, 2, 4, 8, 16, 32) if batch % factor == 0):
            if smaller and replan(batch_size=smaller, activation_checkpointing=checkpointing).fits:
                setting = (
                    f"per_device_train_batch_size={smaller} with gradient_accumulation_steps={accumulation * factor}"
                )
                found.append(setting + (" and activation_checkpointing=True" if checkpointing else ""))
                break
    if not found and replan(batch_size=1, activation_checkpointing=True, sequence_length=length // 2).fits:
        found.append(
            f"blocks of {length // 2} tokens with per_device_train_batch_size=1 and activation_checkpointing=True"
        )
    advice = (
        "; it fits with " + ", or with ".join(found[:3]) if found else "; no smaller batch fits: choose a smaller model"
    )
    return OutOfMemoryError(
        f"this run needs {plan.total / _GIB:.2f} GiB, {plan.available / _GIB:.2f} GiB are available on {plan.device}; "
        f"most goes to {named}{advice}"
    )
