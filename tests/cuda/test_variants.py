"""The kernels below the launchers that choose among them: their C++ tests (tests/cpp/cuda) in three emulated builds."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.emu.build import build_target
from tests.emu.test_emulator import ENVIRONMENT


@pytest.mark.parametrize("build", ["plain", "race", "asan"])
def test_variants(build):
    program = build_target(f"kernel_tests_{build}")
    environment = ENVIRONMENT | {"GCOV_PREFIX": os.devnull}  # lines are counted elsewhere (tests/emu/test_kernels.py)
    result = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=300)
    failures = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert result.returncode == 0, "\n".join([*failures, result.stderr[-4000:]])
