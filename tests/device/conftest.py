"""Models, trainer and generation on a GPU, held against the CPU. tests/emu/test_models.py runs these tests on the
emulated GPU; on a machine with a GPU they run on that."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcore import _core
from llmcore.machine import FAMILIES


def _why_not() -> str | None:
    try:
        _core.check_device("cuda")
    except ValueError as error:
        return str(error)
    missing = FAMILIES - set(_core.cuda_families())
    return f"no CUDA kernels yet for {', '.join(sorted(missing))}" if missing else None


WHY_NOT = _why_not()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            if WHY_NOT is not None:
                item.add_marker(pytest.mark.skip(reason=WHY_NOT))
