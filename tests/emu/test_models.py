"""Models, trainer and generation (tests/device) on the emulated GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llmcore.machine import FAMILIES
from tests.emu.build import ROOT, build_emulated_core

FILES = sorted(path.name for path in (ROOT / "tests" / "device").glob("test_*.py"))
MISSING = sorted(family for family in FAMILIES if not (ROOT / "csrc" / "cuda" / f"{family}.cu").is_file())


@pytest.mark.skipif(bool(MISSING), reason=f"no CUDA kernels yet for {', '.join(MISSING)}")
@pytest.mark.parametrize("name", FILES)
def test_on_the_emulated_device(name):
    core = str(build_emulated_core("coverage"))
    environment = os.environ | {"LLMCORE_CORE": core, "GCOV_PREFIX": os.devnull}
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "cuda"]
    result = subprocess.run(
        [*command, f"tests/device/{name}"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-4000:]
    assert "passed" in result.stdout and "skipped" not in result.stdout, result.stdout[-2000:]
