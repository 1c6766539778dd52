"""One alternating run: all opponents alive at once, blocks of steps in turn, so a drift of the machine meets all."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.train.opponents import Opponent, Samples
from benchmarks.train.workloads import WORKLOADS, write_weights

# Largest difference of any of the checked losses. bfloat16: autocast keeps the residual stream in float32, llmcore
# stores it in bfloat16, so the two round differently.
TOLERANCE = {"float32": 5e-4, "bfloat16": 2e-2}
_BLOCK = 0.4  # seconds of steps of one opponent before the next one's turn


class LossesDiffer(Exception):
    """The opponents do not compute the same; a time would mean nothing."""


@dataclasses.dataclass
class Result:
    """Medians of one opponent in one run. Bytes, seconds."""

    opponent: str
    seconds: float
    fastest: float
    steps: int
    peak_memory: int
    faults_per_step: float
    first_step: float
    losses: list[float]


def race(
    workload: str, dtype: str, threads: int, names: list[str], seconds: float, inductor_cache: Path | None = None
) -> list[Result]:
    """Measures the opponents in turn for `seconds` in all (the workload's rounds at the least; 0: one of one step).

    Raises LossesDiffer if a loss of the steps before is not that of the first opponent.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_weights(WORKLOADS[workload], folder)
        opponents = []
        for name in names:
            opponent = stack.enter_context(Opponent(name, workload, dtype, threads, folder, inductor_cache))
            opponent.check_steps(WORKLOADS[workload].checked_steps - 1)
            _compare(opponents[0].samples.losses if opponents else opponent.samples.losses, opponent, dtype)
            opponents.append(opponent)
        _take_turns(opponents, seconds, WORKLOADS[workload].rounds if seconds else 1)
    return [_result(opponent.name, opponent.samples) for opponent in opponents]


def _compare(expected: list[float], opponent: Opponent, dtype: str) -> None:
    found = opponent.samples.losses
    difference = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    if not difference <= TOLERANCE[dtype]:
        raise LossesDiffer(
            f"{opponent.name} computes other losses, {found} instead of {expected}: over {TOLERANCE[dtype]:g} apart"
        )


def _take_turns(opponents: list[Opponent], seconds: float, least: int) -> None:
    steps = {opponent.name: 1 for opponent in opponents}
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < least or time.perf_counter() < end:
        for opponent in opponents:
            taken = opponent.measure(steps[opponent.name]) / steps[opponent.name]
            steps[opponent.name] = max(1, int(_BLOCK / taken)) if seconds else 1
        rounds += 1


def _result(name: str, samples: Samples) -> Result:
    return Result(
        opponent=name,
        seconds=statistics.median(samples.seconds),
        fastest=min(samples.seconds),
        steps=len(samples.seconds),
        peak_memory=samples.peak_memory,
        faults_per_step=samples.faults / len(samples.seconds),
        first_step=samples.first_step,
        losses=samples.losses,
    )


def as_record(workload: str, dtype: str, threads: int, results: list[Result]) -> dict[str, Any]:
    """A run as it stands in the JSON file."""
    return {
        "workload": workload,
        "dtype": dtype,
        "threads": threads,
        "tokens": WORKLOADS[workload].tokens,
        "results": [dataclasses.asdict(result) for result in results],
    }


def show(record: dict[str, Any]) -> None:
    """One line per opponent, to the terminal."""
    print(f"\n{record['workload']}, {record['dtype']}, {record['threads']} thread(s)")
    ours = next((r["seconds"] for r in record["results"] if r["opponent"] == "llmcore"), None)
    for result in record["results"]:
        ratio = f"  llmcore is {result['seconds'] / ours:5.2f}x as fast" if ours else ""
        print(
            f"  {result['opponent']:<15} {1e3 * result['seconds']:9.1f} ms (best {1e3 * result['fastest']:9.1f}, "
            f"{result['steps']:4} steps) {record['tokens'] / result['seconds']:9.0f} tokens/s  "
            f"{result['peak_memory'] / 2**20:6.0f} MiB  {result['faults_per_step']:8.0f} faults a step  "
            f"first step after {result['first_step']:5.1f} s{ratio}"
        )
    sys.stdout.flush()
