from __future__ import annotations

from math import erf, pi

import numpy as np
import pytest
import torch

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import tensor
from tests.cases import BFLOAT16, DTYPES, ODD_SIZES, assert_close, check_gradient, leaf, poison_allocator, random_array

GRAIN = 1 << 13


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


REFERENCE = {
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(erf, otypes=[float])(x / np.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
}
OURS = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": F.tanh,
    "sigmoid": F.sigmoid,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("n", [*ODD_SIZES, GRAIN + 3])
@pytest.mark.parametrize("name", REFERENCE)
def test_forward_and_backward(name, n, dtype, device):
    x, dy = random_array((n,), 1, scale=2.0, dtype=dtype), random_array((n,), 2, dtype=dtype)
    tx = leaf(x, dtype, device)
    poison_allocator(device)
    y = OURS[name](tx)
    assert y.device.startswith(device)
    assert_close(y, REFERENCE[name](x), dtype)
    y.backward(_core.from_numpy(dy, dtype, device))
    check_gradient(tx.grad, lambda v: (REFERENCE[name](v) * dy).sum(), x, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(n,) for n in ODD_SIZES] + [(2, 3, 5), (GRAIN + 3,)])
def test_swiglu(shape, dtype, device):
    gate, up, dy = (random_array(shape, seed, scale=2.0, dtype=dtype) for seed in (1, 2, 3))
    tgate, tup = leaf(gate, dtype, device), leaf(up, dtype, device)
    poison_allocator(device)
    y = F.swiglu(tgate, tup)
    assert_close(y, gate * sigmoid(gate) * up, dtype)
    y.backward(_core.from_numpy(dy, dtype, device))
    check_gradient(tgate.grad, lambda v: (v * sigmoid(v) * up * dy).sum(), gate, dtype)
    check_gradient(tup.grad, lambda v: (gate * sigmoid(gate) * v * dy).sum(), up, dtype)


# All magnitudes but the subnormal ones, which kernels take for zero (core/subnormals.h), both signs, and what is
# special. bfloat16 reaches the same functions through its rounding.
EVERY_MAGNITUDE = np.concatenate([np.geomspace(1.2e-38, 1e38, 20001), np.linspace(0, 30, 20001)])
EVERY_MAGNITUDE = np.concatenate([EVERY_MAGNITUDE, -EVERY_MAGNITUDE]).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("name", REFERENCE)
def test_values_and_slopes_over_all_magnitudes(name, device):
    """Absolute error below 2e-7 * max(1, |x|), of slopes below 3e-7: what cpu/simd_math.h promises."""
    x = EVERY_MAGNITUDE
    tx = leaf(x, device=device)
    y = OURS[name](tx)
    with np.errstate(over="ignore"):
        expected = REFERENCE[name](x)
    error = np.abs(y.numpy() - expected) / np.maximum(1, np.abs(x))
    assert error.max() < 2e-7
    y.backward(_core.from_numpy(np.ones(x.size), None, device))
    theirs = torch.tensor(x, requires_grad=True)
    functions = {
        "gelu_tanh": lambda t: torch.nn.functional.gelu(t, approximate="tanh"),
        "gelu": torch.nn.functional.gelu,
        "silu": torch.nn.functional.silu,
    }
    inside = torch.clamp(theirs, -40, 40)  # beyond, torch's float64 slopes overflow; ours are 0 or 1
    functions.get(name, getattr(torch, name, None))(inside).sum().backward()
    slopes = theirs.grad.numpy().copy()
    slopes[x < -40] = 0.0
    slopes[x > 40] = 0.0 if name in ("tanh", "sigmoid") else 1.0
    assert np.abs(tx.grad.numpy() - slopes).max() < 3e-7


def test_exp_keeps_its_bound():
    """e^x of cpu/simd.h has a relative error below 2 ulp. Below -20, sigmoid(x) = 1 / (1 + e^-x) = e^x / (1 + e^x) is
    e^x in float64 within 2e-9 of itself, and the reciprocal adds half an ulp. Measured in all: 1.85 ulp."""
    x = np.linspace(-87, -20, 200001).astype(np.float32)
    y = F.sigmoid(tensor(x)).numpy()
    exact = np.exp(x.astype(np.float64))
    exact /= 1 + exact
    error = np.abs(y - exact) / np.spacing(exact.astype(np.float32))
    assert error.max() < 2


@pytest.mark.small
@pytest.mark.parametrize("name", REFERENCE)
def test_special_values(name, device):
    x = leaf(np.array([np.nan, np.inf, 0.0, -0.0]), device=device)
    y = OURS[name](x)
    one = name in ("tanh", "sigmoid")
    half = 0.5 if name == "sigmoid" else 0.0
    np.testing.assert_array_equal(y.numpy(), [np.nan, 1.0 if one else np.inf, half, half])
    y.backward(_core.from_numpy(np.ones(4), None, device))
    slope_at_zero = {"tanh": 1.0, "sigmoid": 0.25, "relu": 0.0}.get(name, 0.5)
    expected = [np.nan if name != "relu" else x.grad.numpy()[0], 0.0 if one else 1.0, slope_at_zero, slope_at_zero]
    np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_of_nothing(device):
    for function in [*OURS.values(), lambda x: F.swiglu(x, x)]:
        x = leaf(np.zeros((0, 3)), device=device)
        function(x).backward(_core.zeros((0, 3), device=device))
        assert x.grad.shape == (0, 3)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='gelu: approximate must be "none" or "tanh", got \'erf\''):
        F.gelu(tensor([1.0]), approximate="erf")
    with pytest.raises(ValueError, match="activation_forward: x must be float32 or bfloat16, got int32"):
        F.relu(tensor([1]))
    with pytest.raises(ValueError, match="sigmoid_forward: x must be float32 or bfloat16, got int32"):
        F.sigmoid(tensor([1]))
    with pytest.raises(ValueError, match='activation_forward: activation must be None, "gelu_new".* got "swish"'):
        _core.activation_forward(_core.zeros((2,)), "swish")
    with pytest.raises(ValueError, match=r"swiglu_forward: up must have shape \(2\), got \(3\)"):
        F.swiglu(leaf(np.ones(2)), leaf(np.ones(3)))
    with pytest.raises(ValueError, match="swiglu_forward: up must be float32, got bfloat16"):
        F.swiglu(leaf(np.ones(2)), leaf(np.ones(2), BFLOAT16))


def test_same_bits_for_any_number_of_threads():
    x, up = random_array((5 * GRAIN + 7,), 1), random_array((5 * GRAIN + 7,), 2)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        tx = leaf(x)
        y = F.swiglu(F.gelu(tx), F.sigmoid(tx))
        y.backward(_core.from_numpy(up))
        results.append((y.numpy().copy(), tx.grad.numpy().copy()))
    _core.set_num_threads(0)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][0], other[0])
        np.testing.assert_array_equal(results[0][1], other[1])
