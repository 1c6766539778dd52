"""The cache sizes that kernels cut their work by."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcore import _core

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def linux_size(level: int) -> int | None:
    """Bytes of a core's share of its data cache of a level, as Linux lists it."""
    for entry in CACHES.glob("index*"):
        kind, at_level, size, cpus = (
            (entry / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_map")
        )
        if at_level == str(level) and kind != "Instruction":
            return int(size.removesuffix("K")) * 1024 // int(cpus.replace(",", ""), 16).bit_count()
    return None


def test_sizes_can_be_believed():
    first, second = _core.cache_sizes()
    assert 8 << 10 <= first <= 512 << 10
    assert 128 << 10 <= second <= 16 << 20
    assert first < second


@pytest.mark.parametrize("level", [1, 2])
def test_sizes_are_those_that_linux_lists(level):
    expected = linux_size(level)
    if expected is None:
        pytest.skip("this system lists no caches")
    # A processor may round the number of those that share a cache up to the next power of two.
    assert expected / 2 <= _core.cache_sizes()[level - 1] <= 2 * expected
