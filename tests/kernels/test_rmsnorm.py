from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import (
    BFLOAT16,
    DTYPES,
    FLOAT32,
    ODD_SIZES,
    assert_close,
    check_gradient,
    leaf,
    poison_allocator,
    random_array,
)
from tests.devices import schedules

EPSILON = 1e-6


def reference(x: np.ndarray, weight: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", ODD_SIZES)
@pytest.mark.parametrize("N", [1, 37])
def test_forward_and_backward(N, C, dtype, device):
    check_forward_and_backward(N, C, dtype, device)


# Rows that are kept in registers (csrc/cuda): one or more warps to a row; 21 rows, so that the last block has teams
# without one.
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("vectors", [61, 128, 200, 1100])
def test_rows_of_whole_vectors(vectors, dtype, device):
    check_forward_and_backward(21 if vectors <= 128 else 3, vectors * (4 if dtype == FLOAT32 else 8), dtype, device)


def check_forward_and_backward(N, C, dtype, device):
    x, dy = random_array((N, C), 1, dtype=dtype), random_array((N, C), 2, dtype=dtype)
    weight = random_array((C,), 3, dtype=dtype)
    tx, tw = leaf(x, dtype, device), leaf(weight, dtype, device)
    poison_allocator(device)
    y = F.rmsnorm(tx, tw, EPSILON)
    assert y.device.startswith(device)
    assert_close(y, reference(x, weight), dtype)

    y.backward(_core.from_numpy(dy, dtype, device))
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


@pytest.mark.small
@pytest.mark.parametrize("C", [47, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_sum_and_its_gradient_go_through_in_the_same_pass(dtype, C, device):
    N = 19
    on_device = [_core.from_numpy(random_array((N, C), seed, dtype=dtype), dtype, device) for seed in range(4)]
    x, residual, dy, dsum = on_device
    weight = _core.from_numpy(random_array((C,), 4, dtype=dtype), dtype, device)
    total, y, rstd = _core.residual_rmsnorm_forward(x, residual, weight, EPSILON)
    exact = _core.from_numpy(x.numpy() + residual.numpy(), dtype)  # float sums of bf16 are exact, then rounded
    np.testing.assert_array_equal(total.numpy(), exact.numpy())
    plain = _core.rmsnorm_forward(total, weight, EPSILON)
    for one, other in zip((y, rstd), plain, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())

    dx = _core.rmsnorm_backward(dy, dsum, total, weight, rstd, None)
    apart = _core.rmsnorm_backward(dy, None, total, weight, rstd, None)
    assert_close(dx, apart.numpy().astype(np.float64) + dsum.numpy(), dtype)


@pytest.mark.small
def test_the_gradient_of_the_weight_is_added(device):
    x, dy, weight = random_array((21, 64), 1), random_array((21, 64), 2), random_array((64,), 3)
    before = random_array((64,), 4)
    tx, tdy, tw, dweight = (_core.from_numpy(array, None, device) for array in (x, dy, weight, before))
    _, rstd = _core.rmsnorm_forward(tx, tw, EPSILON)
    _core.rmsnorm_backward(tdy, None, tx, tw, rstd, dweight)
    normalised = reference(x, np.ones(64))
    assert_close(dweight, before + (dy * normalised).sum(0), FLOAT32)


def test_residual_form_with_one_output_unused():
    x, residual, weight = leaf(random_array((3, 8), 1)), leaf(random_array((3, 8), 2)), leaf(np.ones(8))
    F.sum(F.residual_rmsnorm(x, residual, weight)[0]).backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((3, 8)))
    assert weight.grad is None or not weight.grad.numpy().any()

    alone = leaf(x.numpy() + residual.numpy())
    F.sum(F.rmsnorm(alone, weight)).backward()
    F.sum(F.residual_rmsnorm(x, residual, weight)[1]).backward()
    np.testing.assert_array_equal(residual.grad.numpy(), 1 + alone.grad.numpy())


@pytest.mark.parametrize("C", [33, 64])
def test_zero_rows_stay_zero_and_epsilon_counts(C, device):
    x = np.zeros((2, C))
    x[1] = 1e-3
    y = F.rmsnorm(leaf(x, device=device), leaf(np.ones(C), device=device), 1e-6)
    assert_close(y, reference(x, np.ones(C)), DTYPES[0])
    assert not y.numpy()[0].any()
    np.testing.assert_allclose(y.numpy()[1], np.sqrt(0.5), rtol=1e-5)


def test_no_rows(device):
    x, weight = leaf(np.zeros((0, 8)), device=device), leaf(np.ones(8), device=device)
    y = F.rmsnorm(x, weight)
    assert y.shape == (0, 8)
    y.backward(_core.zeros((0, 8), device=device))
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


@pytest.mark.parametrize("C", [96, 99])
def test_same_bits_every_time(C, device):
    x, dy = random_array((203, C), 1), random_array((203, C), 2)
    results = []
    for _ in schedules(device):
        tx, tw = leaf(x, device=device), leaf(np.ones(C), device=device)
        y = F.rmsnorm(tx, tw)
        y.backward(_core.from_numpy(dy, None, device))
        results.append([t.numpy().copy() for t in (y, tx.grad, tw.grad)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
