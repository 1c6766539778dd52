"""What this machine can do, measured: the yardstick for "per cent of peak"."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from llmcore import _core
from llmcore.errors import ConfigError

_SECONDS = 0.15
_SIZES = (1 << 20, 16 << 20, 256 << 20)  # bytes for which the memory's rate is measured

# Kernels that training and generation need; a build that lacks one computes on the CPU unless it is told otherwise.
FAMILIES = frozenset(
    """activation attention cross_entropy dropout elementwise embedding layernorm matmul norm optimizer reduce rmsnorm
    rope shape softmax""".split()
)


def find_device(name: str) -> str:
    """The device that `name` stands for: "auto" (a GPU where one can be used), "cpu", "cuda", "cuda:1".

    Raises ConfigError if it is not there; "auto" never does.
    """
    try:
        return _core.check_device(_best_device() if name == "auto" else name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def is_gpu(device: str) -> bool:
    """Whether `device` works on its own while the host goes on."""
    return device.startswith("cuda")


@functools.cache
def _best_device() -> str:
    """An emulated GPU is for tests, and slow: it is used by those who name it."""
    if _core.cuda_build() != "on" or FAMILIES - set(_core.cuda_families()):
        return "cpu"
    try:
        _core.zeros((1,), device="cuda")  # a GPU that is too old, or that others hold, is as good as none
    except (ValueError, RuntimeError, MemoryError):
        return "cpu"
    return "cuda"


def matmul_peak_flops(dtype: _core.DType = _core.DType.float32, device: str = "cpu", again: bool = False) -> float:
    """The floating-point operations a second (a multiply-add counts as two) of a matrix product that suits the machine.

    It is measured with this package's own kernel and the present number of threads: the best of what fits into 0.15 s,
    once for each dtype, device and number of threads in a process. Other work on the machine makes it too low; with
    `again` it is measured once more, and the greater figure is kept.
    """
    key = (dtype, device, _core.num_threads())
    if again or key not in _peaks:
        _peaks[key] = max(_measure_peak(dtype, device), _peaks.get(key, 0.0))
    return _peaks[key]


_peaks: dict[tuple[_core.DType, str, int], float] = {}


def _measure_peak(dtype: _core.DType, device: str) -> float:
    size = _matrix_size(device)
    a, b = (_core.empty((size, size), dtype, device) for _ in range(2))
    a.fill_(1.0)
    b.fill_(0.5)
    return 2.0 * size**3 / _best_time(lambda: _core.matmul(a, b), _SECONDS, device)


def _matrix_size(device: str) -> int:
    """On the CPU three such matrices fit a second-level cache, and one product takes 1 to 20 ms; a GPU needs more of
    them to be busy, and an emulated one takes its time."""
    if not is_gpu(device):
        return 512
    return 4096 if _core.cuda_build() == "on" else 32


def memory_bandwidth(nbytes: float, device: str = "cpu") -> float:
    """Bytes a second at which so many bytes can be read, or read and written: the best of this package's kernels for
    the norm, for copying and for adding in place, with the present number of threads.

    Fewer bytes come from a nearer cache, so it is measured for 1 MiB, 16 MiB and 256 MiB; `nbytes` is rounded up to
    one of these.
    """
    size = next((size for size in _SIZES if nbytes <= size), _SIZES[-1])
    return _measured_bandwidth(size, device, _core.num_threads())


@functools.cache
def _measured_bandwidth(size: int, device: str, threads: int) -> float:
    x, y = (_core.zeros((size // 8,), _core.DType.float32, device) for _ in range(2))  # together `size` bytes
    seconds = _SECONDS / 3
    rates = [
        size / _best_time(lambda: y.copy_(x), seconds, device),
        size / _best_time(lambda: _core.global_norm([x, y]), seconds, device),
        # y is read and written; a copy has to fetch what it overwrites, too, without being counted for it
        1.5 * size / _best_time(lambda: _core.add_into(y, x), seconds, device),
    ]
    return max(rates)


def _best_time(run: Callable[[], object], seconds: float, device: str) -> float:
    """Seconds of one run. On a GPU several are started at a time, so that its work covers what starting them costs."""
    runs = 10 if is_gpu(device) else 1
    run()  # starts the threads, faults the pages
    _core.synchronize(device)
    best = float("inf")
    start = now = time.perf_counter()
    while now - start < seconds:
        begin = now
        for _ in range(runs):
            run()
        _core.synchronize(device)
        now = time.perf_counter()
        best = min(best, (now - begin) / runs)
    return best
