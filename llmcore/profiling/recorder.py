"""Times every call of the compiled core.

While a recording runs, each op of `llmcore._core` is replaced by a function that calls it and takes the time;
afterwards the ops are what they were. So nothing is spent while nothing is recorded, and no op can be forgotten.
On the CPU kernels have finished when their call returns, so a call's time is the kernel's. On CUDA they run later:
there the device itself says how long it took, between two events around the call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmcore import _core
from llmcore.profiling.costs import Cost, cost_of, tensors_in

# Not kernels: questions and settings.
_NOT_RECORDED = frozenset(
    """check_device cpu_isa cuda_build cuda_families device_facts empty_cache memory_stats num_threads philox
    reset_peak_memory set_memory_limit set_num_threads set_random_shift synchronize from_dlpack""".split()
)
_TENSOR_METHODS = ("cast", "clone", "copy_", "fill_")


@dataclasses.dataclass
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
    _events: list[tuple[Call, _core.Event, _core.Event]] = dataclasses.field(default_factory=list)

    def _read_events(self) -> None:
        """Puts the device's time in the place of the host's for calls on CUDA."""
        for call, begin, end in self._events:
            call.seconds = end.seconds_since(begin)
        self._events.clear()


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
        recording._read_events()


def _timed(name: str, op: Callable[..., Any], recording: Recording) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        device = next((tensor.device for tensor in tensors_in(args)), "cpu")
        before = after = None
        if device != "cpu":
            before, after = _core.Event(device), _core.Event(device)
            before.record()
        begin = time.perf_counter()
        result = op(*args, **kwargs)
        end = time.perf_counter()
        call = Call(name, end - begin, cost_of(name, args, kwargs, result))
        if before is not None and after is not None:
            after.record()
            recording._events.append((call, before, after))
        recording.calls.append(call)
        recording.overhead += time.perf_counter() - end
        return result

    return timed
