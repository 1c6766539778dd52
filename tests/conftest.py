"""What holds for all tests."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

# A shell lets what it starts in the background ignore SIGINT, and children inherit that. Tests send SIGINT to
# themselves and to their children, so they begin with Python's own handler wherever they run.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def use_core(path: str) -> None:
    """Puts the compiled core at `path` in the place of the package's own, for this process."""
    import llmcore

    spec = importlib.util.spec_from_file_location("llmcore._core", path)
    core = importlib.util.module_from_spec(spec)
    sys.modules["llmcore._core"] = llmcore._core = core
    spec.loader.exec_module(core)


# A core of another build: one for the emulated GPU, say (CONTRIBUTING.md, "CUDA without a GPU").
if os.environ.get("LLMCORE_CORE"):
    use_core(os.environ["LLMCORE_CORE"])


@pytest.fixture(autouse=True)
def auto_means_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests compare with what the CPU gives unless they ask for a GPU by name, so "auto" is the CPU on every machine,
    in their children, too. Those in tests/device are about the GPU."""
    if Path(__file__).parent / "device" not in request.path.parents:
        monkeypatch.setattr("llmcore.machine._best_device", lambda: "cpu")
        if request.node.get_closest_marker("cuda") is None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def pytest_terminal_summary(terminalreporter) -> None:
    """Shows what tests recorded for the reader: record_property("summary", "...")."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    lines = [value for report in reports for name, value in getattr(report, "user_properties", []) if name == "summary"]
    for line in sorted(set(lines)):
        terminalreporter.write_line(line)
