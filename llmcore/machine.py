"""What this machine can do, measured: the yardstick for "per cent of peak"."""

from __future__ import annotations

import functools
import time

from llmcore import _core
from llmcore.errors import ConfigError

_SIZE = 512  # three such matrices fit a second-level cache, and one product takes 1 to 20 ms
_SECONDS = 0.15


def find_device(name: str) -> str:
    """The device that `name` stands for ("auto", "cpu", "cuda", "cuda:1"). Raises ConfigError if it is not there."""
    try:
        return _core.check_device("cpu" if name == "auto" else name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def matmul_peak_flops(dtype: _core.DType = _core.DType.float32, device: str = "cpu") -> float:
    """The floating-point operations a second (a multiply-add counts as two) of a matrix product that suits the machine.

    It is measured with this package's own kernel and the present number of threads: the best of what fits into 0.15 s,
    once for each dtype, device and number of threads in a process.
    """
    return _measured_peak(dtype, device, _core.num_threads())


@functools.cache
def _measured_peak(dtype: _core.DType, device: str, threads: int) -> float:
    a, b = (_core.empty((_SIZE, _SIZE), dtype, device) for _ in range(2))
    a.fill_(1.0)
    b.fill_(0.5)
    _core.matmul(a, b)  # starts the threads, faults the pages
    best = float("inf")
    start = now = time.perf_counter()
    while now - start < _SECONDS:
        begin = now
        _core.matmul(a, b)
        now = time.perf_counter()
        best = min(best, now - begin)
    return 2.0 * _SIZE**3 / best
