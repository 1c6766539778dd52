"""Training steps of llmcore against PyTorch's, on this machine.

    python -m benchmarks.train --workload gpt2-b4-t64 --dtype bfloat16 --threads 2 --json times.json

Every opponent is a process of its own, with the same weights, batches and optimizer: llmcore; torch as shipped, eager
and compiled; torch tuned, which is compiled and with tcmalloc (`apt-get install libtcmalloc-minimal4`). Their losses
are compared before the clock starts. `python -m benchmarks.train.report times.json` makes the table of ratios.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.train.opponents import OPPONENTS, OpponentError, tcmalloc
from benchmarks.train.race import LossesDiffer, as_record, race, show
from benchmarks.train.workloads import WORKLOADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, required=True)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--opponents", nargs="+", choices=OPPONENTS, default=list(OPPONENTS))
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, for each line; 0: one step")
    parser.add_argument("--inductor-cache", type=Path, help="where torch.compile keeps its code; given, it is reused")
    parser.add_argument("--json", type=Path, help="file to which the results are added, a line per run")
    arguments = parser.parse_args()
    if "torch-tuned" in arguments.opponents and tcmalloc() is None:
        parser.error("torch-tuned needs tcmalloc: apt-get install libtcmalloc-minimal4, or leave it out of --opponents")
    for workload in arguments.workload:
        for dtype in arguments.dtype:
            for threads in arguments.threads:
                try:
                    results = race(
                        workload, dtype, threads, arguments.opponents, arguments.seconds, arguments.inductor_cache
                    )
                except (LossesDiffer, OpponentError) as error:
                    raise SystemExit(f"{workload}, {dtype}, {threads} thread(s): {error}") from None
                record = as_record(workload, dtype, threads, results)
                show(record)
                if arguments.json is not None:
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
