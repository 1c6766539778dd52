"""Kernels take numbers below 1.2e-38 for zero, in every thread, and leave Python's own arithmetic alone."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from llmcore import _core

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 only, see the header")
N = 300_000  # ten tasks of an elementwise op


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_that_underflow_are_zero(threads):
    x = _core.from_numpy(np.full(N, 1e-20, dtype=np.float32))
    _core.set_num_threads(threads)
    try:
        product = _core.mul(x, x).numpy()
    finally:
        _core.set_num_threads(0)
    assert not product.any()


def test_subnormal_inputs_are_zero():
    tiny = _core.from_numpy(np.full(N, 1e-40, dtype=np.float32))
    assert not _core.mul(tiny, _core.from_numpy(np.full(N, 1e20, dtype=np.float32))).numpy().any()


def test_numpy_keeps_its_subnormals():
    x = _core.from_numpy(np.full(N, 1e-20, dtype=np.float32))
    _core.mul(x, x)
    assert np.float32(1e-20) * np.float32(1e-20) > 0
