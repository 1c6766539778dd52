"""Builds through CMake, once for all workers of pytest-xdist: the C++ tests, and emulated cores."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CPP_TESTS = ROOT / "build" / "cpp"
EMULATED = ROOT / "build" / "emulate"


def find_tool(name: str) -> str:
    beside_python = Path(sys.executable).parent / name  # the wheels of the `test` extra
    tool = str(beside_python) if beside_python.exists() else shutil.which(name)
    assert tool, f"{name} is missing: pip install '.[test]'"
    return tool


@functools.cache
def configure(source: Path, build: Path, *definitions: str) -> None:
    command = [find_tool("cmake"), "-S", str(source), "-B", str(build), "-G", "Ninja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}", *definitions]
    if shutil.which("ccache"):
        command.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make(source: Path, build: Path, target: str, *definitions: str) -> None:
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure(source, build, *definitions)
        command = [find_tool("cmake"), "--build", str(build), "--target", target]
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def build_target(name: str) -> Path:
    """Path of the C++ test program of this name, up to date.

    Raises:
        AssertionError: it does not compile; the message is the compiler's.
    """
    make(ROOT / "tests" / "cpp", CPP_TESTS, name)
    return CPP_TESTS / name


def build_emulated_core(build: str) -> Path:
    """Path of the emulated core `build` (cmake/emulated_cores.cmake), up to date. Raises like `build_target`."""
    import pybind11

    definitions = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    make(ROOT, EMULATED, f"core_{build}", "-DLLMCORE_CUDA=EMULATE", *definitions)
    (core,) = (EMULATED / "emulated" / build).glob("_core*.so")
    return core
