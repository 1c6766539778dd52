"""nvcc compiles csrc/cuda for sm_80 and sm_90a without a warning or a spill, into the instructions that were meant."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.cuda.device_code import COMPILER, FLAGS, NVCC, ROOT, device_code
from tests.cuda.hot_kernels import HOT_KERNELS, LOCAL_MEMORY

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")

SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
LADDER = sorted((ROOT / "benchmarks" / "ladder").glob("multiply_*.cu"))
# What needs wgmma and TMA is compiled for 90a only, as in cmake/cuda.cmake.
COMPILATIONS = [(p, t) for p in SOURCES for t in ("80", "90a") if t == "90a" or not p.stem.endswith("_sm90")]
COMPILATIONS += [(p, "90a") for p in LADDER]


@pytest.mark.parametrize("source, target", COMPILATIONS, ids=[f"{p.stem}-{t}" for p, t in COMPILATIONS])
def test_kernels_compile_to_what_was_meant(source: Path, target: str):
    code = device_code(source, target)
    assert code.succeeded, code.messages[-4000:]
    # "wgmma serialized", "setmaxnreg ignored", "insufficient registers" and their like
    assert not re.search(r"C7[56]\d\d", code.messages), code.messages
    assert code.kernels, f"{source.name} has no kernel for sm_{target}"
    for kernel in code.kernels:
        assert kernel.spills == 0, f"{kernel.name} spills {kernel.spills} bytes with {kernel.registers} registers"
        for part, expected in HOT_KERNELS.items():
            if part not in kernel.name:
                continue
            assert target in expected.targets, kernel.name
            assert kernel.registers <= expected.registers, f"{kernel.name} uses {kernel.registers} registers"
            assert kernel.stack == 0, f"{kernel.name} keeps {kernel.stack} bytes in local memory"
            for opcode in expected.needs:
                assert kernel.count(opcode) > 0, f"{kernel.name} has no {opcode}"
            for opcode in LOCAL_MEMORY:
                assert kernel.count(opcode) == 0, f"{kernel.name} has {opcode}"


@pytest.mark.parametrize("target", ["80", "90a"])
def test_every_hot_kernel_exists(target):
    names = [k.name for p, t in COMPILATIONS if t == target for k in device_code(p, t).kernels]
    missing = [part for part, e in HOT_KERNELS.items() if target in e.targets and not any(part in n for n in names)]
    assert not missing


def test_host_code_compiles_with_the_toolkit(tmp_path):
    """csrc/cuda/*.cpp is compiled against the emulator's API everywhere else."""
    for source in [*sorted((ROOT / "csrc" / "cuda").glob("*.cpp")), ROOT / "benchmarks" / "ladder" / "run.cu"]:
        command = [*COMPILER, *FLAGS, "-c", "-I", str(ROOT / "csrc"), str(source), "-o", str(tmp_path / "host.o")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{source.name}: {(result.stdout + result.stderr)[-4000:]}"


FAILING_LAUNCH = """
#include <cstdio>
#include <stdexcept>
#include "cuda/launch.cuh"

template <class T>
__global__ void fill_rows(T* rows) {
    rows[threadIdx.x] = 0;
}

int main() {
    try {
        llmcore::launch({7, dim3(4096), 128}, fill_rows<float>, nullptr);
    } catch (const llmcore::DeviceError& error) {
        std::puts(error.what());
        return 0;
    }
    return 1;
}
"""


def test_a_launch_that_fails_says_which_kernel_and_how_it_was_started(tmp_path):
    """With or without a GPU: no block has 4096 threads. Without a driver CUDA does not tell the name."""
    (tmp_path / "launch.cu").write_text(FAILING_LAUNCH, encoding="utf-8")
    command = [*COMPILER, *FLAGS, "-I", str(ROOT / "csrc"), str(tmp_path / "launch.cu"), "-o", str(tmp_path / "launch")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    result = subprocess.run([tmp_path / "launch"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    shape = r"with grid \(7, 1, 1\), block \(4096, 1, 1\), 128 bytes of shared memory"
    sentence = rf"kernel (fill_rows<float> )?{shape}( on cuda:\d+)?: cudaError\w+, \w"
    assert re.match(sentence, result.stdout), result.stdout
