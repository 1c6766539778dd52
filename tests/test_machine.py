from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from llmcore import _core, machine
from llmcore.errors import ConfigError
from llmcore.machine import matmul_peak_flops


def test_the_peak_is_near_what_a_product_reaches():
    start = time.perf_counter()
    peak = matmul_peak_flops()
    assert time.perf_counter() - start < 1.0  # 0.15 s and what a busy machine adds
    a, b = _core.from_numpy(np.ones((512, 512))), _core.from_numpy(np.ones((512, 512)))
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        _core.matmul(a, b)
        seconds.append(time.perf_counter() - begin)
    # The units are right (a busy machine may differ by some factor, a mistake in units is a thousand).
    assert 0.05 < 2 * 512**3 / min(seconds) / peak < 20


def test_it_is_measured_once_for_each_dtype_and_number_of_threads():
    assert matmul_peak_flops() == matmul_peak_flops(_core.DType.float32, "cpu")
    start = time.perf_counter()
    for _ in range(100):
        matmul_peak_flops()
    assert time.perf_counter() - start < 0.1
    _core.set_num_threads(1)
    alone = matmul_peak_flops(_core.DType.bfloat16)
    _core.set_num_threads(0)
    assert alone != matmul_peak_flops(_core.DType.bfloat16) or _core.num_threads() == 1


def test_the_peak_only_rises(monkeypatch):
    """Other work on the machine makes a measurement too low, never too high."""
    monkeypatch.setattr(machine, "_peaks", {})
    rates = iter([3.0, 2.0, 5.0])
    monkeypatch.setattr(machine, "_measure_peak", lambda dtype, device: next(rates))
    peak = machine.matmul_peak_flops
    assert [peak(), peak(), peak(again=True), peak(again=True), peak()] == [3.0, 3.0, 3.0, 5.0, 5.0]


def test_the_bandwidth_depends_on_where_the_bytes_are(monkeypatch):
    measured = []
    monkeypatch.setattr(machine, "_measured_bandwidth", lambda size, device, threads: measured.append(size) or 1.0)
    for nbytes in (1, 1 << 20, (1 << 20) + 1, 1 << 24, 1 << 28, 1 << 40):
        machine.memory_bandwidth(nbytes)
    assert measured == [1 << 20, 1 << 20, 16 << 20, 16 << 20, 256 << 20, 256 << 20]


_best_device = machine._best_device  # before tests/conftest.py puts the CPU in its place for each test


def test_auto_takes_a_gpu_that_can_do_everything(monkeypatch):
    monkeypatch.setattr(machine, "_best_device", _best_device)
    kernels = Path(__file__).parent.parent / "csrc" / "kernels"
    assert machine.FAMILIES == {path.stem for path in kernels.glob("*.h")}
    asked = []

    def check_device(name):
        asked.append(name)
        return {"cuda": "cuda:0"}.get(name, name)

    monkeypatch.setattr(_core, "check_device", check_device)
    monkeypatch.setattr(_core, "zeros", lambda shape, device: asked.append("memory"))
    cases = [("on", machine.FAMILIES, "cuda:0"), ("on", machine.FAMILIES - {"rope"}, "cpu")]
    for build, families, device in [*cases, ("emulate", machine.FAMILIES, "cpu"), ("off", (), "cpu")]:
        monkeypatch.setattr(_core, "cuda_build", lambda build=build: build)
        monkeypatch.setattr(_core, "cuda_families", lambda families=families: list(families))
        _best_device.cache_clear()
        assert machine.find_device("auto") == device and machine.find_device("cuda") == "cuda:0"

    def too_old(shape, device):
        raise ValueError("llmcore needs 8.0 or newer")

    monkeypatch.setattr(_core, "zeros", too_old)
    monkeypatch.setattr(_core, "cuda_build", lambda: "on")
    monkeypatch.setattr(_core, "cuda_families", lambda: list(machine.FAMILIES))
    _best_device.cache_clear()
    assert machine.find_device("auto") == "cpu"
    _best_device.cache_clear()


def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match='device must be "cpu", "cuda" or "cuda:<index>", got "tpu"'):
        machine.find_device("tpu")
