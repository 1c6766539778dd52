"""nvcc compiles the device half of every wrapper, without warnings, wgmma serialisation or spills. Nothing runs."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.emu.build import ROOT

NVCC = shutil.which("nvcc")


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("target", ["80", "90a"])
def test_device_code_compiles(target, tmp_path):
    command = [NVCC, "-std=c++20", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "-c", "-I", str(ROOT / "csrc")]
    command += ["-gencode", f"arch=compute_{target},code=sm_{target}", str(ROOT / "tests/cpp/emu/device.cu")]
    result = subprocess.run([*command, "-o", str(tmp_path / "device.o")], capture_output=True, text=True, timeout=600)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-4000:]
    assert "Compiling entry function" in output
    assert not re.search(r"C75\d\d", output), output  # "wgmma serialized", "setmaxnreg ignored" and their like
    spills = re.findall(r"([1-9]\d*) bytes spill", output)
    assert not spills, output
