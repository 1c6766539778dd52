"""`llmcore env`: versions and hardware, to paste into a bug report."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import llmcore
from llmcore.cli.options import CommonOptions, parse
from llmcore.cli.output import pairs, print_result

_PACKAGES = ("numpy", "tokenizers", "safetensors", "tyro", "pyyaml", "tqdm", "matplotlib", "tensorboardX")


@dataclasses.dataclass(kw_only=True)
class EnvOptions(CommonOptions):
    """Print versions and hardware. It names no user, host or path."""


def main(argv: list[str]) -> None:
    """Runs the verb."""
    options = parse(EnvOptions, argv, "env")
    facts = environment()
    print_result(facts, pairs((name.replace("_", " "), value) for name, value in facts.items()), options.json)


def environment() -> dict[str, Any]:
    """What decides how llmcore runs here."""
    from llmcore import _core
    from llmcore.training.memory_plan import available_memory

    facts: dict[str, Any] = {
        "llmcore": llmcore.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": processor_name(),
        "instruction_set": _core.cpu_isa(),
        "threads": f"{_core.num_threads()} (allowed: {len(os.sched_getaffinity(0))} of {os.cpu_count()} CPUs)",
        "memory_available": f"{available_memory() / (1 << 30):.1f} GiB",
        "cuda": _cuda(),
    }
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("LLMCORE_")}
    facts["settings"] = (
        ", ".join(f"{name}={value}" for name, value in settings.items()) or "no LLMCORE_ variable is set"
    )
    return facts


def _cuda() -> str:
    """The GPU that would be used, or why there is none."""
    from llmcore import _core

    if _core.cuda_build() == "off":
        return "not in this build"
    try:
        facts = _core.device_facts("cuda")
    except (ValueError, RuntimeError) as error:
        return str(error)
    memory = f"{facts['free_bytes'] / (1 << 30):.1f} of {facts['total_bytes'] / (1 << 30):.1f} GiB free"
    return f"{facts['name']}, compute capability {facts['compute_capability']}, {memory}"


def processor_name() -> str:
    """The CPU's name as the system spells it, else the machine's architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
