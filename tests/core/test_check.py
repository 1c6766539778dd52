from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import {first}
from llmcore import _core
try:
    _core.clip_factor(_core.zeros((1,)), -2.5)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("first", ["numpy", "torch"])
def test_sentences_keep_their_figures_beside_another_cpp_runtime(first):
    """With PyTorch's C++ runtime loaded first, numbers that went through std::ostringstream came out empty."""
    result = subprocess.run(
        [sys.executable, "-c", SHOW.format(first=first)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "clip_factor: max_norm must be 0 or more, got -2.5"
