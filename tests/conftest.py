"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell lets what it starts in the background ignore SIGINT, and children inherit that. Tests send SIGINT to
# themselves and to their children, so they begin with Python's own handler wherever they run.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
