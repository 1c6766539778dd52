"""Formatting: ruff and clang-format have nothing to say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPP_FOLDERS = ("csrc", "bindings", "tests", "benchmarks")
CPP_SUFFIXES = (".cpp", ".h", ".cu", ".cuh")


def run(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command[:4])}\n{result.stdout}{result.stderr}"


def test_ruff_finds_nothing():
    run(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


def test_python_is_formatted():
    run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")


def test_cpp_is_formatted():
    beside_python = Path(sys.executable).parent / "clang-format"  # the wheel of the `test` extra
    tool = str(beside_python) if beside_python.exists() else shutil.which("clang-format")
    assert tool, "clang-format is missing: pip install '.[test]'"
    files = [str(p) for folder in CPP_FOLDERS for p in sorted((ROOT / folder).rglob("*")) if p.suffix in CPP_SUFFIXES]
    assert len(files) > 10
    run(tool, "--dry-run", "-Werror", *files)
