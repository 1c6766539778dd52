"""The CUDA emulator: its C++ tests in four builds (tests/cpp/emu), and the bugs that only a sanitizer stops.

plain: results and the emulator's own checks. ucontext: the same with the portable switch between fibers. race: kernels
with the compiler's instrumentation, answered by the race detector. asan: AddressSanitizer and UBSan see the ends and
the alignment of every tensor and shared array.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.emu.build import build_target

BUILDS = ("plain", "race", "asan", "ucontext")
ENVIRONMENT = os.environ | {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}

# Test that must die -> what the report has to name.
DYING = {
    "bug_5_cp_async_reads_outside_its_tensor": ("heap-buffer-overflow", "gemm_mma_kernel.cuh"),
    "bug_6_missing_row_guard": ("heap-buffer-overflow", "layernorm_by_warp"),
    "bug_18_store_past_a_shared_array": ("out of bounds for type", "layernorm_kernels.cuh"),
    "bug_19_misaligned_vector_load": ("misaligned address", "layernorm_kernels.cuh"),
}


@pytest.mark.parametrize("build", BUILDS)
def test_emulator(build):
    program = build_target(f"emulator_tests_{build}")
    result = subprocess.run([program], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    failures = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert result.returncode == 0, "\n".join([*failures, result.stderr[-4000:]])


def test_bugs_that_a_sanitizer_stops():
    program = build_target("emulator_tests_asan")
    listed = subprocess.run([program, "--list-dying"], capture_output=True, text=True, check=True).stdout.split()
    assert set(listed) == set(DYING)
    for name, parts in DYING.items():
        result = subprocess.run([program, name], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
        assert result.returncode != 0, name
        for part in parts:
            assert part in result.stderr, f"{name}: {result.stderr[:2000]}"
