"""What the benchmarks share: medians of alternating runs, one row of a Markdown table for each measurement.

    python -m benchmarks.kernels.bench_matmul --threads 1 2 --dtype float32 bfloat16 > bench_matmul.md

The candidates of a line run in turn, so a drift of the machine meets all of them. A turn begins with runs that are not
timed: the waiting threads of the library before spin on for some milliseconds, on the cores that the next one needs.
torch joins in where it is installed. Each benchmark checks its result before it starts the clock.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor
from llmcore.machine import matmul_peak_flops, memory_bandwidth

torch: Any = None
with suppress(ImportError):
    import torch

# libgomp's threads spin for about 300,000 turns of a loop after their work, 1 to 3 ms; ours for 0.05 ms.
SETTLE_SECONDS, TURN_SECONDS = 0.01, 0.02

DTYPES = {"float32": _core.DType.float32, "bfloat16": _core.DType.bfloat16}


def settings(description: str | None) -> Iterator[_core.DType]:
    """Reads --threads, --dtype and --seconds, and yields the dtypes once for each number of threads, each below the
    head of its table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, nargs="+", default=[_core.num_threads()])
    parser.add_argument("--dtype", nargs="+", choices=sorted(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring, for each row; 0: run once")
    arguments = parser.parse_args()
    measure.seconds = arguments.seconds
    print(_title(description))
    for threads in arguments.threads:
        _core.set_num_threads(threads)
        if torch is not None:
            torch.set_num_threads(threads)
        for name in arguments.dtype:
            peak = matmul_peak_flops(DTYPES[name]) / 1e9
            print(f"\n## {name}, {threads} thread{'s' if threads > 1 else ''}\n\nMatmul peak {peak:.0f} GFLOP/s.\n")
            print(
                "| measurement | llmcore | of the peak | torch | llmcore is faster |\n| --- | --- | --- | --- | --- |"
            )
            yield DTYPES[name]


def _title(description: str | None) -> str:
    """What is measured, on what, with which command."""
    module = Path(sys.argv[0]).stem
    command = " ".join(["python -m", f"benchmarks.kernels.{module}", *sys.argv[1:]])
    subject = (description or module).splitlines()[0].rstrip(".")
    versus = f"torch {torch.__version__}" if torch is not None else "torch is not installed"
    return (
        f"# {subject}\n\nCommand: `{command}`\n\n"
        f"{_processor()}; level `{_core.cpu_isa()}`; {versus}. Medians of alternating runs; per cent of what this\n"
        "package's own matrix product, or the memory with as many bytes, reaches with these threads."
    )


def _processor() -> str:
    """The processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return "an unknown processor"


def random_tensor(shape: tuple[int, ...], dtype: _core.DType, seed: int = 0) -> _core.Tensor:
    return _core.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32), dtype)


def as_torch(x: _core.Tensor) -> Any:
    """A torch copy of the same dtype; None without torch."""
    if torch is None:
        return None
    copy = torch.tensor(x.numpy())
    return copy.bfloat16() if x.dtype == _core.DType.bfloat16 else copy


def check(actual: _core.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Raises if a result is off by more than `tolerance` of the largest element."""
    error = np.abs(actual.numpy() - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not error <= tolerance:
        raise SystemExit(f"the result is wrong: error {error:.2e} of the largest element, expected below {tolerance:g}")


def measure(candidates: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each candidate: warmed up, then in turn until the time is over, three times at least.

    Without time each runs once: that shows that it runs, and nothing else.
    """
    least = 3 if measure.seconds else 1
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + measure.seconds
    while time.perf_counter() < end or len(samples[next(iter(samples))]) < least:
        for name, run in candidates.items():
            if measure.seconds:
                repeat(run, SETTLE_SECONDS)
            samples[name] += repeat(run, TURN_SECONDS if measure.seconds else 0)
    return {name: statistics.median(values) for name, values in samples.items()}


def repeat(run: Callable[[], Any], seconds: float) -> list[float]:
    """The time of each run, of as many as begin within `seconds`, one at least."""
    times: list[float] = []
    begin = now = time.perf_counter()
    while not times or now < begin + seconds:
        run()
        times.append(time.perf_counter() - now)
        now += times[-1]
    return times


measure.seconds = 0.5


def report(
    title: str, dtype: _core.DType, candidates: dict[str, Callable[[], Any] | None], flops: float = 0, nbytes: float = 0
) -> None:
    """Measures and prints a row. `flops` gives GFLOP/s and per cent of the matmul peak, `nbytes` GB/s and per cent of
    the memory's rate; where both are given, the operations count."""
    medians = measure({name: run for name, run in candidates.items() if run is not None})
    work, unit = (flops, "GFLOP/s") if flops else (nbytes, "GB/s")
    cells = {name: f"{seconds * 1e6:,.0f} us, {work / seconds / 1e9:.1f} {unit}" for name, seconds in medians.items()}
    peak = matmul_peak_flops(dtype) if flops else memory_bandwidth(nbytes)
    ours = medians["llmcore"]
    share, faster = (
        f"{100 * work / ours / peak:.0f} %",
        f"{medians['torch'] / ours:.2f}x" if "torch" in medians else "-",
    )
    print(f"| {title} | {cells['llmcore']} | {share} | {cells.get('torch', '-')} | {faster} |", flush=True)


class _Source(Function):
    """Hands an input on and drops its gradient, as if it came from an op before: what a leaf does with its gradient is
    not measured."""

    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        return x

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> None:
        return None


def compare(
    title: str,
    dtype: _core.DType,
    inputs: list[_core.Tensor],
    ours: Callable[..., Tensor],
    theirs: Callable[..., Any],
    reference: Callable[..., np.ndarray],
    passes: float,
    flops: float = 0,
) -> None:
    """Measures a differentiable op forward, and forward and backward, for a gradient of ones. Inputs shaped as the
    first are activations, whose gradients go on; the others are parameters, into whose gradients the op adds.

    `ours` takes the inputs as autograd.Tensor, `theirs` as torch.Tensor, `reference` as float32 arrays. `passes` is how
    often the forward pass has to move the first input's bytes (the backward pass is taken to move twice that).
    """
    leaves = [Tensor(x, requires_grad=x.dtype != _core.DType.int32) for x in inputs]
    y = ours(*leaves)
    check(y.data, reference(*(x.numpy() for x in inputs)), 2e-5 if dtype == _core.DType.float32 else 2e-2)
    ones = _core.empty(y.shape, y.dtype)
    ones.fill_(1.0)
    others = [as_torch(x) for x in inputs]
    for other in others:
        if other is not None and other.is_floating_point():
            other.requires_grad_()
    torch_ones = as_torch(ones)

    def both_passes() -> None:
        for leaf in leaves:
            leaf.grad = None
        inner = [
            _Source.apply(leaf) if leaf.requires_grad and leaf.shape == leaves[0].shape else leaf for leaf in leaves
        ]
        ours(*inner).backward(ones)

    def torch_both_passes() -> None:
        for other in others:
            other.grad = None
        theirs(*others).backward(torch_ones)

    nbytes = passes * inputs[0].nbytes
    forward = {"llmcore": lambda: ours(*leaves), "torch": torch and (lambda: theirs(*others))}
    report(f"{title} forward", dtype, forward, flops, nbytes)
    both = {"llmcore": both_passes, "torch": torch and torch_both_passes}
    report(f"{title} forward + backward", dtype, both, 3 * flops, 3 * nbytes)
