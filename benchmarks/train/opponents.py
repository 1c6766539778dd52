"""The processes that train against one another: started one after the other, then told in turn to make steps."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OPPONENTS = ("llmcore", "torch-eager", "torch-compiled", "torch-tuned")


class OpponentError(Exception):
    """A process ended before its time."""


def tcmalloc() -> str | None:
    """The library that "tuned" preloads (Debian: libtcmalloc-minimal4); None if it is not installed."""
    found = sorted(glob.glob("/usr/lib/*/libtcmalloc_minimal.so.4") + glob.glob("/usr/lib64/libtcmalloc_minimal.so.4"))
    return found[0] if found else None


@dataclasses.dataclass
class Samples:
    """What was measured of one opponent. Bytes, seconds."""

    first_step: float = 0.0  # from the start of the process to the end of its first step
    losses: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    faults: int = 0
    peak_memory: int = 0


class Opponent:
    """A running worker. `tuned` is the compiled one with tcmalloc in place of malloc.

    Args:
        name: one of OPPONENTS.
        weights: folder of the weights to start from, None for random ones.
        inductor_cache: folder of torch's compiled code; a new one shows what a first start costs.
    """

    def __init__(
        self,
        name: str,
        workload: str,
        dtype: str,
        threads: int,
        weights: Path | None = None,
        inductor_cache: Path | None = None,
    ) -> None:
        self.name, self.samples = name, Samples()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        if inductor_cache is not None:
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(inductor_cache)
        library = tcmalloc() if name == "torch-tuned" else None
        if library is not None:
            environment["LD_PRELOAD"] = library
        command = [sys.executable, "-m", "benchmarks.train.worker", name, workload, dtype, str(threads)]
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, *([str(weights)] if weights else [])],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        first = self._answer()
        self.samples.first_step = time.perf_counter() - started
        self.samples.losses += first["losses"]
        self.samples.peak_memory = first["peak_memory"]

    def check_steps(self, steps: int) -> None:
        """Steps that are not timed: they warm up, and their losses are compared."""
        self.samples.losses += self._steps(steps)["losses"]

    def measure(self, steps: int) -> float:
        """Timed steps; returns their seconds, all together."""
        answer = self._steps(steps)
        self.samples.seconds += answer["seconds"]
        self.samples.faults += answer["faults"]
        return sum(answer["seconds"])

    def _steps(self, steps: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.samples.peak_memory = answer["peak_memory"]
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OpponentError(f"{self.name} ended with status {self._process.wait()}; its message is above")
        return json.loads(line)

    def __enter__(self) -> Opponent:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()
