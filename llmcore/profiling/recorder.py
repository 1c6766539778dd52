"""Times every call of the compiled core.

While a recording runs, each op of `llmcore._core` is replaced by a function that calls it and takes the time;
afterwards the ops are what they were. So nothing is spent while nothing is recorded, and no op can be forgotten.
Kernels have finished when their call returns, so a call's time is the kernel's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmcore import _core
from llmcore.profiling.costs import Cost, cost_of

# Not kernels: questions and settings.
_NOT_RECORDED = frozenset(
    """check_device cpu_isa cuda_build empty_cache memory_stats num_threads philox reset_peak_memory set_memory_limit
    set_num_threads""".split()
)
_TENSOR_METHODS = ("cast", "clone", "copy_", "fill_")


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an op: its name in `_core`, seconds, and what it had to do at the least."""

    op: str
    seconds: float
    cost: Cost


@dataclasses.dataclass
class Recording:
    """The calls of all threads in the order in which they end, and the seconds spent on writing them down."""

    calls: list[Call] = dataclasses.field(default_factory=list)
    overhead: float = 0.0


@contextlib.contextmanager
def record() -> Iterator[Recording]:
    """`with record() as recording:` fills the recording. For one at a time."""
    recording = Recording()
    replaced: list[tuple[Any, str, Any]] = []
    names = [name for name in dir(_core) if not name.startswith("_") and name not in _NOT_RECORDED]
    places = [(_core, name) for name in names if not isinstance(getattr(_core, name), type)]
    places += [(_core.Tensor, name) for name in _TENSOR_METHODS]
    try:
        for owner, name in places:
            original = getattr(owner, name)
            if callable(original):
                replaced.append((owner, name, original))
                setattr(owner, name, _timed(name.rstrip("_"), original, recording))
        yield recording
    finally:
        for owner, name, original in replaced:
            setattr(owner, name, original)


def _timed(name: str, op: Callable[..., Any], recording: Recording) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = op(*args, **kwargs)
        end = time.perf_counter()
        recording.calls.append(Call(name, end - begin, cost_of(name, args, kwargs, result)))
        recording.overhead += time.perf_counter() - end
        return result

    return timed
