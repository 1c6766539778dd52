from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import DTYPES, FLOAT32, ODD_SIZES, assert_close, check_gradient, leaf, poison_allocator, random_array
from tests.devices import schedules

EPSILON = 1e-5


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    normalised = (x - mean) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    return normalised * weight + (0 if bias is None else bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", ODD_SIZES)
@pytest.mark.parametrize("N", [1, 37])
def test_forward_and_backward(N, C, dtype, device):
    check_forward_and_backward(N, C, dtype, device)


# Rows that are kept in registers, one size for each number of warps and vectors that share a row (csrc/cuda), then one
# that is too long for that; 13 rows, so that the last block has teams without one.
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("vectors", [7, 32, 61, 96, 100, 200, 512, 1000, 1500, 2049])
def test_rows_of_whole_vectors(vectors, dtype, device):
    check_forward_and_backward(13 if vectors <= 128 else 3, vectors * (4 if dtype == FLOAT32 else 8), dtype, device)


def check_forward_and_backward(N, C, dtype, device):
    x, dy = random_array((N, C), 1, dtype=dtype), random_array((N, C), 2, dtype=dtype)
    weight, bias = random_array((C,), 3, dtype=dtype), random_array((C,), 4, dtype=dtype)
    tx, tw, tb = leaf(x, dtype, device), leaf(weight, dtype, device), leaf(bias, dtype, device)
    poison_allocator(device)
    y = F.layernorm(tx, tw, tb, EPSILON)
    assert y.device.startswith(device)
    assert_close(y, reference(x, weight, bias), dtype)

    y.backward(_core.from_numpy(dy, dtype, device))
    rstd = 1 / np.sqrt(x.var(-1).min() + EPSILON)  # every term of dx carries it; for C = 1 they cancel to nothing
    check_gradient(tx.grad, lambda v: (reference(v, weight, bias) * dy).sum(), x, dtype, scale=rstd)
    check_gradient(tw.grad, lambda v: (reference(x, v, bias) * dy).sum(), weight, dtype)
    check_gradient(tb.grad, lambda v: (reference(x, weight, v) * dy).sum(), bias, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_residual_form_equals_add_then_norm(dtype):
    N, C = 19, 47
    x, residual = random_array((N, C), 1, dtype=dtype), random_array((N, C), 2, dtype=dtype)
    weight = random_array((C,), 3, dtype=dtype)
    tensors = [leaf(x, dtype), leaf(residual, dtype), leaf(weight, dtype)]
    apart = [leaf(x, dtype), leaf(residual, dtype), leaf(weight, dtype)]

    total, y = F.residual_layernorm(*tensors, None, EPSILON)
    loss_path = F.add(total, y)
    total2 = F.add(apart[0], apart[1])
    y2 = F.layernorm(total2, apart[2], None, EPSILON)
    loss_path2 = F.add(total2, y2)
    np.testing.assert_array_equal(y.numpy(), y2.numpy())

    dy = _core.from_numpy(random_array((N, C), 5, dtype=dtype), dtype)
    loss_path.backward(dy)
    loss_path2.backward(dy)
    for one, other in zip(tensors, apart, strict=True):
        assert_close(one.grad, other.grad.numpy(), dtype)


@pytest.mark.parametrize("C", [47, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_sum_and_its_gradient_go_through_in_the_same_pass(dtype, C, device):
    N = 19
    on_device = [_core.from_numpy(random_array((N, C), seed, dtype=dtype), dtype, device) for seed in range(4)]
    x, residual, dy, dsum = on_device
    weight = _core.from_numpy(random_array((C,), 4, dtype=dtype), dtype, device)
    total, y, mean, rstd = _core.residual_layernorm_forward(x, residual, weight, None, EPSILON)
    exact = _core.from_numpy(x.numpy() + residual.numpy(), dtype)  # float sums of bf16 are exact, then rounded
    np.testing.assert_array_equal(total.numpy(), exact.numpy())
    plain = _core.layernorm_forward(total, weight, None, EPSILON)
    for one, other in zip((y, mean, rstd), plain, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())

    arguments = (total, weight, mean, rstd, None, None)
    dx = _core.layernorm_backward(dy, dsum, *arguments)
    apart = _core.layernorm_backward(dy, None, *arguments)
    assert_close(dx, apart.numpy().astype(np.float64) + dsum.numpy(), dtype)


@pytest.mark.small
def test_gradients_of_parameters_are_added(device):
    N, C = 21, 64
    x, dy, weight = random_array((N, C), 1), random_array((N, C), 2), random_array((C,), 3)
    before = random_array((2, C), 4)
    tx, tdy, tw = (_core.from_numpy(array, None, device) for array in (x, dy, weight))
    _, mean, rstd = _core.layernorm_forward(tx, tw, None, EPSILON)
    normalised = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    for wanted in ((True, True), (True, False), (False, True)):
        dweight, dbias = (_core.from_numpy(b, None, device) if w else None for b, w in zip(before, wanted, strict=True))
        _core.layernorm_backward(tdy, None, tx, tw, mean, rstd, dweight, dbias)
        if dweight is not None:
            assert_close(dweight, before[0] + (dy * normalised).sum(0), FLOAT32)
        if dbias is not None:
            assert_close(dbias, before[1] + dy.sum(0), FLOAT32)


@pytest.mark.small
def test_parameters_at_any_address(device):
    """Vectors need addresses that are multiples of 16; a part of a tensor may begin anywhere."""
    N, C = 5, 64
    x, parameters = random_array((N, C), 1), random_array((C + 1,), 2)
    part = _core.from_numpy(parameters, None, device).narrow(1, C)
    y, mean, rstd = _core.layernorm_forward(_core.from_numpy(x, None, device), part, part, EPSILON)
    assert_close(y, reference(x, parameters[1:], parameters[1:]), FLOAT32)
    assert_close(mean, x.mean(-1), FLOAT32)
    assert_close(rstd, 1 / np.sqrt(x.var(-1) + EPSILON), FLOAT32)


def test_no_rows(device):
    x, weight = _core.zeros((0, 8), device=device), _core.zeros((8,), device=device)
    y, mean, rstd = _core.layernorm_forward(x, weight, weight, EPSILON)
    dweight = _core.from_numpy(np.arange(8.0), None, device)
    dx = _core.layernorm_backward(y, None, x, weight, mean, rstd, dweight, None)
    assert y.shape == dx.shape == (0, 8) and mean.shape == rstd.shape == (0,)
    np.testing.assert_array_equal(dweight.numpy(), np.arange(8.0))


@pytest.mark.parametrize("C", [64, 67])
def test_constant_rows_and_large_offsets_do_not_cancel(C, device):
    x = np.full((2, C), 1e4)
    x[1] += np.linspace(-1, 1, C)
    x = x.astype(np.float32).astype(np.float64)
    weight, bias = np.ones(C), np.zeros(C)
    y = F.layernorm(leaf(x, device=device), leaf(weight, device=device), leaf(bias, device=device), EPSILON)
    np.testing.assert_allclose(y.numpy(), reference(x, weight, bias), atol=2e-3)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"layernorm_forward: weight must have shape \(8\), got \(7\)"):
        F.layernorm(leaf(np.ones((2, 8))), leaf(np.ones(7)), None)
    with pytest.raises(ValueError, match="weight must be float32, got bfloat16"):
        F.layernorm(leaf(np.ones((2, 8))), leaf(np.ones(8), DTYPES[1]), None)


def test_what_the_forward_pass_kept_is_checked():
    x, rows = _core.zeros((4, 8)), _core.zeros((4,))
    weight = _core.zeros((8,))
    for name, arguments in {"mean": (_core.zeros((3,)), rows), "rstd": (rows, _core.zeros((4, 1)))}.items():
        with pytest.raises(ValueError, match=rf"layernorm_backward: {name} must have shape \(4\)"):
            _core.layernorm_backward(x, None, x, weight, *arguments, None, None)


def test_same_bits_for_any_number_of_threads():
    x, dy = random_array((203, 96), 1), random_array((203, 96), 2)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        tx, tw, tb = leaf(x), leaf(np.ones(96)), leaf(np.zeros(96))
        y = F.layernorm(tx, tw, tb)
        y.backward(_core.from_numpy(dy))
        results.append([t.numpy().copy() for t in (y, tx.grad, tw.grad, tb.grad)])
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("C", [96, 99])
def test_same_bits_every_time(C, device):
    x, dy = random_array((203, C), 1), random_array((203, C), 2)
    results = []
    for _ in schedules(device):
        tx, tw, tb = leaf(x, device=device), leaf(np.ones(C), device=device), leaf(np.zeros(C), device=device)
        y = F.layernorm(tx, tw, tb)
        y.backward(_core.from_numpy(dy, None, device))
        results.append([t.numpy().copy() for t in (y, tx.grad, tw.grad, tb.grad)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
