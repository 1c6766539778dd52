from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import tensor
from tests.cases import BFLOAT16, DTYPES, FLOAT32, ODD_SIZES, assert_close, leaf, poison_allocator, random_array

PIECE = 1 << 16


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(n,) for n in ODD_SIZES] + [(1, 1), (3, 5, 7), (2 * PIECE + 9,)])
def test_sum_and_mean(shape, dtype, device):
    x = random_array(shape, 1, dtype=dtype)
    tx, ty = leaf(x, dtype, device), leaf(x, dtype, device)
    poison_allocator(device)
    total, mean = F.sum(tx), F.mean(ty)
    assert total.shape == mean.shape == () and total.dtype == mean.dtype == FLOAT32
    np.testing.assert_allclose(total.item(), x.sum(), rtol=2.0**-23, atol=1e-10)  # rounded once, from double
    np.testing.assert_allclose(mean.item(), x.mean(), rtol=2.0**-23, atol=1e-15)
    gradient = _core.from_numpy(np.array(3.0), None, device)
    total.backward(gradient)
    mean.backward(gradient)
    np.testing.assert_array_equal(tx.grad.numpy(), np.full(shape, 3.0))
    assert_close(ty.grad, np.full(shape, 3.0 / x.size), dtype, scale=3.0 / x.size)


def test_of_nothing(device):
    empty = leaf(np.zeros((0, 4)), device=device)
    assert F.sum(empty).item() == 0.0
    assert np.isnan(F.mean(empty).item())
    F.sum(empty).backward(_core.from_numpy(np.array(1.0), None, device))
    assert empty.grad.shape == (0, 4)


@pytest.mark.small
def test_a_sum_that_float32_would_lose(device):
    x = np.full(1 << 20, 0.1, np.float32)
    x[0] = 2**24
    np.testing.assert_allclose(F.sum(leaf(x, device=device)).item(), x.astype(np.float64).sum(), rtol=1e-7)
    assert np.isnan(F.sum(leaf(np.array([1.0, np.nan]), device=device)).item())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", ODD_SIZES)
@pytest.mark.parametrize("N", [0, 1, 17, 333])
def test_column_sums_are_added(N, C, dtype, device):
    x, start = random_array((N, C), 1, dtype=dtype), random_array((C,), 2)
    total = _core.from_numpy(start, None, device)
    poison_allocator(device)
    _core.add_column_sums(total, _core.from_numpy(x, dtype, device))
    assert_close(total, start + x.sum(0), FLOAT32, scale=max(N, 1) ** 0.5)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="sum: x must be float32 or bfloat16, got int32"):
        F.sum(tensor([1, 2]))
    with pytest.raises(ValueError, match=r"sum_backward: dy must have one element, got shape \(2\)"):
        _core.sum_backward(_core.zeros((2,)), (3,), FLOAT32)
    with pytest.raises(ValueError, match=r"add_column_sums: total must have shape \(3\), got \(4\)"):
        _core.add_column_sums(_core.zeros((4,)), _core.zeros((2, 3)))
    with pytest.raises(ValueError, match="add_column_sums: total must be float32, got bfloat16"):
        _core.add_column_sums(_core.zeros((3,), BFLOAT16), _core.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"add_column_sums: x must have a last dimension of at least 1"):
        _core.add_column_sums(_core.zeros((0,)), _core.zeros((2, 0)))


def test_same_bits_for_any_number_of_threads():
    x = random_array((777, 300), 1)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        total = _core.zeros((300,))
        _core.add_column_sums(total, _core.from_numpy(x))
        results.append([F.sum(tensor(x)).item(), F.mean(tensor(x)).item(), *total.numpy().tolist()])
    _core.set_num_threads(0)
    assert results[0] == results[1] == results[2] == results[3]
