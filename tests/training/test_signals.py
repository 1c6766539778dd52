"""Signal handlers live as long as the context, and only in the main thread."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from llmcore.training.signals import StopSignals


def test_first_signal_is_noted_second_acts_and_handlers_come_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with StopSignals(True) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()  # in case the handler has not run yet
        assert signals.received == signal.SIGTERM
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals(True) as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_disabled_and_other_threads_touch_nothing():
    before, seen = signal.getsignal(signal.SIGINT), []

    def look():
        with StopSignals(True):
            seen.append(signal.getsignal(signal.SIGINT))

    with StopSignals(False):
        seen.append(signal.getsignal(signal.SIGINT))
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before, before]
