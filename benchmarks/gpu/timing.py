"""Times of work on a GPU: batches of calls between two synchronisations, long enough to hide what a call costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

SAMPLES = 5


def seconds_per_call(run: Callable[[], Any], synchronize: Callable[[], Any], seconds: float) -> float:
    """The median over five batches of `run`, which together take about `seconds`; 0: every batch is one call."""
    run()
    synchronize()
    begin = time.perf_counter()
    run()
    synchronize()
    once = max(time.perf_counter() - begin, 1e-6)
    calls = max(1, min(10_000, int(seconds / SAMPLES / once)))
    samples = []
    for _ in range(SAMPLES):
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize()
        samples.append((time.perf_counter() - begin) / calls)
    return statistics.median(samples)
