"""Test programs on an emulated core: a process each, because devices are chosen once in a process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.emu.build import ROOT, build_emulated_core

PREAMBLE = """
import gc
import tests.conftest
import numpy as np, pytest
from llmcore import _core
from llmcore.errors import OutOfMemoryError
"""


def run(*parts: str, **variables: str) -> None:
    """Runs the parts as one program with these environment variables; its traceback is this test's failure."""
    environment = os.environ | {"LLMCORE_CORE": str(build_emulated_core("coverage")), "GCOV_PREFIX": os.devnull}
    # Each by itself: indented lines after another part's would belong to its last function.
    program = "\n".join(textwrap.dedent(part) for part in (PREAMBLE, *parts))
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
