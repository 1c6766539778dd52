"""The devices that kernel tests run on, and the schedules of the emulated one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmcore import _core

# In what order the emulated GPU runs threads and blocks, and when asynchronous effects land: late finds missing waits,
# early finds what is overwritten too soon, and copies that are early beside late math find what neither does.
POLICIES = {
    "forward-late": dict(order="forward", copies="late", math="late"),
    "reverse-early": dict(order="reverse", copies="early", math="early"),
    "random-mixed": dict(order="random", copies="mixed", math="mixed"),
    "forward-early-late": dict(order="forward", copies="early", math="late"),
}


def is_emulated() -> bool:
    return _core.cuda_build() == "emulate"


def devices_of(family: str) -> list:
    """Parameters for the fixture `device`: the CPU, and CUDA if it is here and the family has kernels for it.

    The emulated GPU comes once for each policy.
    """
    devices = [pytest.param(("cpu", None), id="cpu")]
    if family not in _core.cuda_families():
        return devices
    try:
        _core.check_device("cuda")
    except ValueError:  # built in, but this machine has no GPU
        return devices
    if not is_emulated():
        return [*devices, pytest.param(("cuda", None), id="cuda", marks=pytest.mark.cuda)]
    emulated = [pytest.param(("cuda", name), id=f"cuda-{name}", marks=pytest.mark.cuda) for name in POLICIES]
    return [*devices, *emulated]


def set_policy(name: str | None) -> None:
    if is_emulated():
        _core.emulator.set_policy(**POLICIES[name] if name else {})


def schedules(device: str) -> Iterator[None]:
    """One turn for each order in which the device may do the same work: every policy, or just three turns."""
    if device == "cuda" and is_emulated():
        for name in POLICIES:
            set_policy(name)
            yield
    else:
        yield from (None, None, None)
