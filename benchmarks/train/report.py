"""The table of ratios from the results of runs.

python -m benchmarks.train.report times.jsonl first_steps.jsonl > benchmarks/results/<machine>/train.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.train.race import TOLERANCE
from benchmarks.train.workloads import WORKLOADS

# What a run is meant to reach: times of torch as shipped and tuned over ours (float32, bfloat16 each), and our peak
# memory over torch's. Set on two cores of an AMD EPYC, where torch's float32 products run at half the processor's rate.
TARGETS = {
    "gpt2-b4-t64": ((2.4, 1.7), (1.15, 1.4), 0.85),
    "gpt2-b4-t256": ((2.4, 1.9), (1.1, 1.4), 0.85),
    "gpt2-b4-t1024": ((2.6, 2.0), (1.2, 1.3), 0.60),
    "small-v65": ((2.5, 1.8), (1.25, 1.5), 0.65),
    "small-v4096": ((2.4, 1.8), (1.2, 1.45), 0.60),
    "tiny": ((2.5, 3.0), (2.5, 3.0), 0.15),
    "bert-base": ((2.4, 1.6), (1.1, 1.4), 0.85),
}
_SHIPPED = ("torch-eager", "torch-compiled")
_MISSING = "not measured"


def merged(records: Iterable[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, dict[str, Any]]]:
    """(workload, dtype, threads) -> opponent -> its result with `ratio`, its time over llmcore's in the same run."""
    runs: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for record in records:
        results = {result["opponent"]: result for result in record["results"]}
        ours = results["llmcore"]
        run = runs.setdefault((record["workload"], record["dtype"], record["threads"]), {})
        for name, result in results.items():
            run.setdefault(name, {**result, "ratio": result["seconds"] / ours["seconds"]})
    return runs


def row(workload: str, dtype: str, threads: int, run: dict[str, dict[str, Any]]) -> list[str]:
    """The cells of one run."""
    shipped_target, tuned_target, memory_target = TARGETS[workload]
    column = 0 if dtype == "float32" else 1
    cells = [workload, dtype, str(threads)]
    for name in ("llmcore", *_SHIPPED, "torch-tuned"):
        cells.append(f"{1e3 * run[name]['seconds']:,.1f}" if name in run else _MISSING)
    shipped = [run[name] for name in _SHIPPED if name in run]
    if len(shipped) == len(_SHIPPED):
        best = min(shipped, key=lambda result: result["ratio"])
        cells.append(_against(best["ratio"], shipped_target[column], higher=True))
    else:
        best = None
        cells.append(_MISSING)
    tuned = run.get("torch-tuned")
    cells.append(_against(tuned["ratio"], tuned_target[column], higher=True) if tuned else _MISSING)
    ours = run["llmcore"]
    cells.append(f"{ours['peak_memory'] / 2**20:,.0f}")
    cells.append(_against(ours["peak_memory"] / best["peak_memory"], memory_target, higher=False) if best else _MISSING)
    cells.append(f"{ours['faults_per_step']:,.0f} / {best['faults_per_step']:,.0f}" if best else _MISSING)
    return cells


def _against(value: float, target: float, higher: bool) -> str:
    met = value >= target if higher else value <= target
    return f"{value:.2f} ({target:g}{'' if met else ', missed'})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def first_steps(records: list[dict[str, Any]]) -> str:
    """Time from the start of the process to the end of its first step, and llmcore's part of each opponent's."""
    rows = []
    for record in records:
        seconds = {result["opponent"]: result["first_step"] for result in record["results"]}
        cells = [record["workload"], record["dtype"], *(f"{seconds[name]:.2f}" for name in ("llmcore", *_SHIPPED))]
        cells.append(_against(seconds["llmcore"] / seconds["torch-eager"], 0.2, higher=False))
        cells.append(_against(seconds["llmcore"] / seconds["torch-compiled"], 0.05, higher=False))
        rows.append(cells)
    head = ["workload", "dtype", "llmcore s", "eager s", "compiled s", "of eager (target)", "of compiled (target)"]
    return table(head, rows)


def text(records: list[dict[str, Any]]) -> str:
    """The report in Markdown."""
    steps = [record for record in records if "kind" not in record]
    runs = merged(steps)
    rows = [
        row(workload, dtype, threads, runs[workload, dtype, threads])
        for threads in (2, 1)
        for workload in WORKLOADS
        for dtype in ("float32", "bfloat16")
        if (workload, dtype, threads) in runs and workload in TARGETS
    ]
    missing = [
        f"{workload} {dtype} {threads}"
        for threads in (2, 1)
        for workload in TARGETS
        for dtype in ("float32", "bfloat16")
        if (workload, dtype, threads) not in runs
    ]
    head = ["workload", "dtype", "threads", "llmcore ms", "eager ms", "compiled ms", "tuned ms"]
    head += ["faster than torch (target)", "than tuned (target)", "peak MiB", "of torch's (target)"]
    head += ["page faults a step, llmcore / torch"]
    parts = [
        "Medians of alternating runs. torch: the better of eager and compiled, as shipped; tuned: compiled and with "
        "tcmalloc. Memory: the process's high-water mark, against the faster torch's. Losses of the steps before the "
        f"clock differed by less than {TOLERANCE['float32']:g} (float32) and {TOLERANCE['bfloat16']:g} (bfloat16).",
        table(head, rows),
        f"Not measured (workload, dtype, threads): {', '.join([*missing, 'LSTM (there is no recurrent model)'])}.",
    ]
    started = [record for record in records if record.get("kind") == "first step"]
    if started:
        parts += [
            "From the start of the process to the end of its first step, random weights, 2 threads, medians; compiled "
            "with an empty cache:",
            first_steps(started),
        ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="what --json of the other commands wrote")
    paths = parser.parse_args().files
    print(text([json.loads(line) for path in paths for line in path.read_text().splitlines()]))


if __name__ == "__main__":
    main()
