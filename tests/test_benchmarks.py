"""Every kernel benchmark runs, and finds its kernel right before it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks" / "kernels").glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_it_runs(name):
    command = [sys.executable, "-m", f"benchmarks.kernels.{name}", "--seconds", "0", "--threads", "2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "llmcore" in result.stdout and " us" in result.stdout
