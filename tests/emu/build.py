"""Builds the C++ tests through CMake, once for all workers of pytest-xdist."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "cpp"


def find_tool(name: str) -> str:
    beside_python = Path(sys.executable).parent / name  # the wheels of the `test` extra
    tool = str(beside_python) if beside_python.exists() else shutil.which(name)
    assert tool, f"{name} is missing: pip install '.[test]'"
    return tool


@functools.cache
def configure() -> None:
    command = [find_tool("cmake"), "-S", str(ROOT / "tests" / "cpp"), "-B", str(BUILD), "-G", "Ninja"]
    command.append(f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}")
    if shutil.which("ccache"):
        command.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def build_target(name: str) -> Path:
    """Path of the program of this name, up to date.

    Raises:
        AssertionError: it does not compile; the message is the compiler's.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure()
        command = [find_tool("cmake"), "--build", str(BUILD), "--target", name]
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    return BUILD / name
