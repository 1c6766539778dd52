"""How long it takes from the start of a process to the end of its first training step: what an impatient user waits.

    python -m benchmarks.train.first_step --workload tiny gpt2-b4-t64 --json first_steps.jsonl

Every process imports its library, makes a model of random weights and trains one step; torch.compile starts with an
empty cache. In turn, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.train.opponents import Opponent
from benchmarks.train.workloads import WORKLOADS

_OPPONENTS = ("llmcore", "torch-eager", "torch-compiled")


def first_steps(workload: str, dtype: str, threads: int, names: list[str], times: int) -> dict[str, float]:
    """Median seconds of each opponent. The compiled one, which takes half a minute, starts once only."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(times):
        for name in names:
            if name == "torch-compiled" and turn:
                continue
            with (
                tempfile.TemporaryDirectory() as cache,
                Opponent(name, workload, dtype, threads, inductor_cache=Path(cache)) as opponent,
            ):
                seconds[name].append(opponent.samples.first_step)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, required=True)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--opponents", nargs="+", choices=_OPPONENTS, default=list(_OPPONENTS))
    parser.add_argument("--times", type=int, default=3, help="that each process is started")
    parser.add_argument("--json", type=Path, help="file to which the results are added, a line per workload and dtype")
    arguments = parser.parse_args()
    for workload in arguments.workload:
        for dtype in arguments.dtype:
            seconds = first_steps(workload, dtype, arguments.threads, arguments.opponents, arguments.times)
            shown = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
            print(f"{workload}, {dtype}, {arguments.threads} thread(s), first step after: {shown}", flush=True)
            results = [{"opponent": name, "first_step": value} for name, value in seconds.items()]
            record = {"kind": "first step", "workload": workload, "dtype": dtype, "results": results}
            if arguments.json is not None:
                with arguments.json.open("a") as file:
                    file.write(json.dumps({**record, "threads": arguments.threads}) + "\n")


if __name__ == "__main__":
    main()
