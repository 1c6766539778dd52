from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import DTYPES, ODD_SIZES, assert_close, check_gradient, leaf, poison_allocator, random_array


def reference(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", [*ODD_SIZES, 8191])
@pytest.mark.parametrize("N", [1, 37])
def test_forward_and_backward(N, C, dtype, device):
    x, dy = random_array((N, C), 1, scale=3, dtype=dtype), random_array((N, C), 2, dtype=dtype)
    tx = leaf(x, dtype, device)
    poison_allocator(device)
    y = F.softmax(tx)
    assert y.device.startswith(device)
    expected = reference(x)
    assert_close(y, expected, dtype, scale=expected.max())
    y.backward(_core.from_numpy(dy, dtype, device))
    dx = expected * (dy - (dy * expected).sum(-1, keepdims=True))
    assert_close(tx.grad, dx, dtype, scale=expected.max())
    if C < 1000:
        check_gradient(tx.grad, lambda v: (reference(v) * dy).sum(), x, dtype)


def test_any_leading_dimensions(device):
    x = random_array((2, 3, 5))
    assert_close(F.softmax(leaf(x, device=device)), reference(x), DTYPES[0])


@pytest.mark.small
def test_extreme_rows(device):
    x = np.array([[1e30, 1e30, -1e30], [-1000.0, -1001.0, -np.inf], [np.nan, 1.0, 2.0], [-np.inf, -np.inf, -np.inf]])
    y = F.softmax(leaf(x, device=device)).numpy()
    np.testing.assert_array_equal(y[0], [0.5, 0.5, 0])
    np.testing.assert_allclose(y[1], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0], rtol=1e-6)
    assert np.isnan(y[2:]).all()


def test_empty_input_and_wrong_input():
    x = leaf(np.ones((0, 3)))
    y = F.softmax(x)
    y.backward(_core.empty((0, 3)))
    assert y.shape == x.grad.shape == (0, 3)
    with pytest.raises(ValueError, match=r"x must have a last dimension of at least 1, got shape \(3, 0\)"):
        F.softmax(leaf(np.ones((3, 0))))
    with pytest.raises(ValueError, match="softmax_forward: x must be float32 or bfloat16, got int32"):
        _core.softmax_forward(_core.from_numpy(np.ones(3, dtype=np.int32)))


def test_same_bits_for_any_number_of_threads():
    x, dy = random_array((203, 96), 1), random_array((203, 96), 2)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        tx = leaf(x)
        y = F.softmax(tx)
        y.backward(_core.from_numpy(dy))
        results.append([y.numpy().copy(), tx.grad.numpy().copy()])
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
