"""SIGTERM and SIGINT as a request to save and stop, for as long as a run lasts."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Context manager. Inside it the first SIGTERM or SIGINT sets `received`; the second one acts as it did before.

    Does nothing if `enabled` is false or outside the main thread, where Python allows no handlers. A signal that the
    process ignores stays ignored: a shell does that to the SIGINT of what it starts in the background. The former
    handlers are restored on leaving.
    """

    def __init__(self, enabled: bool) -> None:
        self.received: int | None = None
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if self._enabled:
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            # None stands for a handler that was not installed from Python
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._former.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            return
        former = self._former.get(number, signal.SIG_DFL)
        signal.signal(number, former if former is not None else signal.SIG_DFL)
        signal.raise_signal(number)  # the second one: leave now
