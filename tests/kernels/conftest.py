"""A test that takes `device` runs on every device for which its family has kernels (tests/devices.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices import devices_of, set_policy


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        family = Path(metafunc.module.__file__).stem.removeprefix("test_")
        metafunc.parametrize("device", devices_of(family), indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    name, policy = request.param
    set_policy(policy)
    yield name
    set_policy(None)
