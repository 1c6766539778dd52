from __future__ import annotations

import time

import numpy as np

from llmcore import _core
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
