from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import BFLOAT16, DTYPES, ODD_SIZES, assert_close, check_gradient, leaf, poison_allocator, random_array

EPSILON = 1e-6


def reference(x: np.ndarray, weight: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", ODD_SIZES)
@pytest.mark.parametrize("N", [1, 37])
def test_forward_and_backward(N, C, dtype):
    x, dy = random_array((N, C), 1, dtype=dtype), random_array((N, C), 2, dtype=dtype)
    weight = random_array((C,), 3, dtype=dtype)
    tx, tw = leaf(x, dtype), leaf(weight, dtype)
    poison_allocator()
    y = F.rmsnorm(tx, tw, EPSILON)
    assert_close(y, reference(x, weight), dtype)

    y.backward(_core.from_numpy(dy, dtype))
    rstd = 1 / np.sqrt((x**2).mean(-1).min() + EPSILON)  # every term of dx carries it; for C = 1 they cancel to nothing
    check_gradient(tx.grad, lambda v: (reference(v, weight) * dy).sum(), x, dtype, scale=rstd)
    check_gradient(tw.grad, lambda v: (reference(x, v) * dy).sum(), weight, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_residual_form_equals_add_then_norm(dtype):
    N, C = 19, 47
    x, residual = random_array((N, C), 1, dtype=dtype), random_array((N, C), 2, dtype=dtype)
    weight = random_array((C,), 3, dtype=dtype)
    tensors = [leaf(x, dtype), leaf(residual, dtype), leaf(weight, dtype)]
    apart = [leaf(x, dtype), leaf(residual, dtype), leaf(weight, dtype)]

    total, y = F.residual_rmsnorm(*tensors, EPSILON)
    total2 = F.add(apart[0], apart[1])
    y2 = F.rmsnorm(total2, apart[2], EPSILON)
    np.testing.assert_array_equal(total.numpy(), total2.numpy())
    np.testing.assert_array_equal(y.numpy(), y2.numpy())

    dy = _core.from_numpy(random_array((N, C), 5, dtype=dtype), dtype)
    F.add(total, y).backward(dy)
    F.add(total2, y2).backward(dy)
    for one, other in zip(tensors, apart, strict=True):
        assert_close(one.grad, other.grad.numpy(), dtype)


def test_residual_form_with_one_output_unused():
    x, residual, weight = leaf(random_array((3, 8), 1)), leaf(random_array((3, 8), 2)), leaf(np.ones(8))
    F.sum(F.residual_rmsnorm(x, residual, weight)[0]).backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((3, 8)))
    assert weight.grad is None or not weight.grad.numpy().any()

    alone = leaf(x.numpy() + residual.numpy())
    F.sum(F.rmsnorm(alone, weight)).backward()
    F.sum(F.residual_rmsnorm(x, residual, weight)[1]).backward()
    np.testing.assert_array_equal(residual.grad.numpy(), 1 + alone.grad.numpy())


def test_zero_rows_stay_zero_and_epsilon_counts():
    x = np.zeros((2, 33))
    x[1] = 1e-3
    y = F.rmsnorm(leaf(x), leaf(np.ones(33)), 1e-6)
    assert_close(y, reference(x, np.ones(33)), DTYPES[0])
    assert not y.numpy()[0].any()
    np.testing.assert_allclose(y.numpy()[1], np.sqrt(0.5), rtol=1e-5)


def test_no_rows():
    x, weight = leaf(np.zeros((0, 8))), leaf(np.ones(8))
    y = F.rmsnorm(x, weight)
    assert y.shape == (0, 8)
    y.backward(_core.zeros((0, 8)))
    assert x.grad.shape == (0, 8) and not weight.grad.numpy().any()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"rmsnorm_forward: weight must have shape \(8\), got \(7\)"):
        F.rmsnorm(leaf(np.ones((2, 8))), leaf(np.ones(7)))
    with pytest.raises(ValueError, match="rmsnorm_forward: weight must be float32, got bfloat16"):
        F.rmsnorm(leaf(np.ones((2, 8))), leaf(np.ones(8), BFLOAT16))
    with pytest.raises(ValueError, match="rmsnorm_forward: x must have a last dimension of at least 1"):
        F.rmsnorm(leaf(np.ones((2, 0))), leaf(np.ones(0)))
    with pytest.raises(ValueError, match=r"residual_rmsnorm_forward: residual must have shape \(2, 8\), got \(2, 7\)"):
        F.residual_rmsnorm(leaf(np.ones((2, 8))), leaf(np.ones((2, 7))), leaf(np.ones(8)))


def test_same_bits_for_any_number_of_threads():
    x, dy = random_array((203, 96), 1), random_array((203, 96), 2)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        tx, tw = leaf(x), leaf(np.ones(96))
        y = F.rmsnorm(tx, tw)
        y.backward(_core.from_numpy(dy))
        results.append([t.numpy().copy() for t in (y, tx.grad, tw.grad)])
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
