"""The error bounds that csrc/cpu/simd.h and simd_math.h state for exp, tanh, erf and the reciprocal, at every level."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.core.test_isa import levels_here

ROOT = Path(__file__).parents[2]
X86 = platform.machine() in ("x86_64", "AMD64")
# Those of CMakeLists.txt. The levels above multiply matrices differently, nothing else.
FLAGS = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
BOUND = 2.0  # units in the last place


@pytest.mark.parametrize("level", FLAGS)
def test_vector_functions_keep_their_error_bounds(level, tmp_path):
    if level not in levels_here():
        pytest.skip(f"this processor does not have {level}")
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    assert compiler, "a C++ compiler is missing"
    program = tmp_path / "simd_math"
    flags = ["-O2", "-std=c++20", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
    source = ROOT / "tests" / "cpp" / "cpu" / "simd_math.cpp"
    command = [compiler, *flags, *FLAGS[level], f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    lines = subprocess.run([program], check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()
    worst = {line.split()[0]: float(line.split()[1]) for line in lines[:-1]}
    assert set(worst) == {"exp", "tanh", "erf", "reciprocal"}
    assert all(error < BOUND for error in worst.values()), lines
    assert lines[-1] == ("exp beyond 0 0 inf inf" if X86 else lines[-1])
