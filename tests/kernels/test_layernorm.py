from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import DTYPES, ODD_SIZES, assert_close, check_gradient, leaf, poison_allocator, random_array

EPSILON = 1e-5


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    normalised = (x - mean) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    return normalised * weight + (0 if bias is None else bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", ODD_SIZES)
@pytest.mark.parametrize("N", [1, 37])
def test_forward_and_backward(N, C, dtype):
    x, dy = random_array((N, C), 1, dtype=dtype), random_array((N, C), 2, dtype=dtype)
    weight, bias = random_array((C,), 3, dtype=dtype), random_array((C,), 4, dtype=dtype)
    tx, tw, tb = leaf(x, dtype), leaf(weight, dtype), leaf(bias, dtype)
    poison_allocator()
    y = F.layernorm(tx, tw, tb, EPSILON)
    assert_close(y, reference(x, weight, bias), dtype)

    y.backward(_core.from_numpy(dy, dtype))
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


def test_constant_rows_and_large_offsets_do_not_cancel():
    x = np.full((2, 64), 1e4)
    x[1] += np.linspace(-1, 1, 64)
    x = x.astype(np.float32).astype(np.float64)
    weight, bias = np.ones(64), np.zeros(64)
    y = F.layernorm(leaf(x), leaf(weight), leaf(bias), EPSILON)
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
