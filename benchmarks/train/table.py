"""All runs behind the table of results, the most telling first, until the time is over.

    python -m benchmarks.train.table --minutes 22 --json times.jsonl --inductor-cache /tmp/inductor
    python -m benchmarks.train.report times.jsonl

A run that is in the file already is left out, so the command can be given again to go on. With --compile nothing is
measured: torch.compile fills its cache, which takes longer than the runs and does not need an idle machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.train.opponents import OPPONENTS, OpponentError
from benchmarks.train.race import LossesDiffer, as_record, race, show

# By what they say about a release: every workload in 2 threads, then what fits of 1 thread.
_ORDER = ("gpt2-b4-t64", "small-v65", "tiny", "gpt2-b4-t256", "bert-base", "small-v4096", "gpt2-b4-t1024")
# Four processes of this one do not fit into 24 GB; each group has llmcore to compare with.
_GROUPS = {"gpt2-b4-t1024": [["llmcore", "torch-eager", "torch-compiled"], ["llmcore", "torch-tuned"]]}


class Run(NamedTuple):
    """What one call of `race` measures."""

    workload: str
    dtype: str
    threads: int
    opponents: tuple[str, ...]


def runs(workloads: Sequence[str] = _ORDER, threads: Sequence[int] = (2, 1)) -> list[Run]:
    """Those of these workloads and numbers of threads, in order."""
    return [
        Run(workload, dtype, count, tuple(opponents))
        for count in threads
        for workload in _ORDER
        if workload in workloads
        for dtype in ("bfloat16", "float32")
        for opponents in _GROUPS.get(workload, [OPPONENTS])
    ]


def measured(path: Path) -> set[Run]:
    """The runs that a file of results holds."""
    if not path.exists():
        return set()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        Run(record["workload"], record["dtype"], record["threads"], tuple(r["opponent"] for r in record["results"]))
        for record in records
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=22.0, help="no run is begun after this time")
    parser.add_argument("--seconds", type=float, default=8.0, help="of measuring, for each run")
    parser.add_argument("--workload", nargs="+", choices=_ORDER, default=_ORDER, help="these alone")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="these numbers alone")
    parser.add_argument("--json", type=Path, required=True, help="file to which the results are added, a line per run")
    parser.add_argument("--inductor-cache", type=Path, required=True, help="where torch.compile keeps its code")
    parser.add_argument("--compile", action="store_true", help="fill the cache, measure nothing")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    done = set() if arguments.compile else measured(arguments.json)
    left = [
        run
        for run in runs(arguments.workload, arguments.threads)
        if run not in done and (not arguments.compile or "torch-compiled" in run.opponents)
    ]
    while left and time.monotonic() < end:
        run = left.pop(0)
        opponents = ["torch-compiled"] if arguments.compile else list(run.opponents)
        seconds = 0.0 if arguments.compile else arguments.seconds
        try:
            results = race(run.workload, run.dtype, run.threads, opponents, seconds, arguments.inductor_cache)
        except (LossesDiffer, OpponentError) as error:
            print(f"\n{run.workload}, {run.dtype}, {run.threads} thread(s): not measured: {error}", flush=True)
            continue
        record = as_record(run.workload, run.dtype, run.threads, results)
        show(record)
        if not arguments.compile:
            with arguments.json.open("a") as file:
                file.write(json.dumps(record) + "\n")
    for run in left:
        print(f"not reached: {run.workload}, {run.dtype}, {run.threads} thread(s)")


if __name__ == "__main__":
    main()
