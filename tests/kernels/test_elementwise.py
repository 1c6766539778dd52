from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import tensor
from tests.cases import BFLOAT16, DTYPES, FLOAT32, ODD_SIZES, assert_close, leaf, poison_allocator, random_array

INT32 = _core.DType.int32
BINARY = {"add": (F.add, np.add), "sub": (F.sub, np.subtract), "mul": (F.mul, np.multiply)}
GRAIN = 1 << 15


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("n", [0, *ODD_SIZES, GRAIN + 5])
@pytest.mark.parametrize("name", BINARY)
def test_forward_and_backward(name, n, dtype, device):
    ours, numpys = BINARY[name]
    a, b, dy = (random_array((n,), seed, dtype=dtype) for seed in (1, 2, 3))
    ta, tb = leaf(a, dtype, device), leaf(b, dtype, device)
    poison_allocator(device)
    y = ours(ta, tb)
    np.testing.assert_array_equal(y.numpy(), _core.from_numpy(numpys(a, b), dtype).numpy())  # rounded once

    y.backward(_core.from_numpy(dy, dtype, device))
    slope_a, slope_b = {"add": (1, 1), "sub": (1, -1), "mul": (b, a)}[name]
    np.testing.assert_array_equal(ta.grad.numpy(), _core.from_numpy(dy * slope_a, dtype).numpy())
    np.testing.assert_array_equal(tb.grad.numpy(), _core.from_numpy(dy * slope_b, dtype).numpy())


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("n", [0, *ODD_SIZES])
def test_scale(n, dtype, device):
    x, dy = random_array((n,), 1, dtype=dtype), random_array((n,), 2, dtype=dtype)
    tx = leaf(x, dtype, device)
    y = F.scale(tx, -2.5, 0.5)
    assert_close(y, x * -2.5 + 0.5, dtype)
    y.backward(_core.from_numpy(dy, dtype, device))
    assert_close(tx.grad, dy * -2.5, dtype)


def test_operators_are_the_functions():
    a, b = random_array((7,), 1), random_array((7,), 2)
    ta, tb = leaf(a), leaf(b)
    loss = F.sum((ta + tb) * (ta - tb) + 3.0 - (2.0 - ta) * 0.5 + -tb + 1.5 * (1.0 + ta) - 0.25)
    assert_close(loss, ((a + b) * (a - b) + 3.0 - (2.0 - a) * 0.5 - b + 1.5 * (1.0 + a) - 0.25).sum(), FLOAT32)
    loss.backward()
    assert_close(ta.grad, 2 * a + 0.5 + 1.5, FLOAT32)
    assert_close(tb.grad, -2 * b - 1, FLOAT32)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_mse_loss(dtype):
    x, target = random_array((5, 33), 1, dtype=dtype), random_array((5, 33), 2, dtype=dtype)
    tx, ttarget = leaf(x, dtype), leaf(target, dtype)
    loss = F.mse_loss(tx, ttarget)
    assert loss.dtype == FLOAT32
    assert_close(loss, ((x - target) ** 2).mean(), FLOAT32)
    loss.backward()
    assert_close(tx.grad, 2 * (x - target) / x.size, dtype, scale=1 / x.size)
    assert_close(ttarget.grad, -2 * (x - target) / x.size, dtype, scale=1 / x.size)


def test_only_needed_gradients_are_computed():
    a, b = leaf(np.ones(3)), tensor(np.full(3, 2.0))
    F.sum(F.mul(F.sub(a, b), b)).backward()
    np.testing.assert_array_equal(a.grad.numpy(), np.full(3, 2.0))
    assert b.grad is None


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("n", [0, *ODD_SIZES, GRAIN + 5])
def test_add_into(n, dtype, device):
    y, x = random_array((n,), 1), random_array((n,), 2, dtype=dtype)
    total = _core.from_numpy(y, None, device)
    _core.add_into(total, _core.from_numpy(x, dtype, device))
    np.testing.assert_array_equal(total.numpy(), (y + x).astype(np.float32))


@pytest.mark.parametrize("n", [0, *ODD_SIZES, GRAIN + 5])
def test_cast_between_floats_and_its_gradient(n, device):
    x, dy = random_array((n,), 1), random_array((n,), 2, dtype=BFLOAT16)
    tx = leaf(x, device=device)
    poison_allocator(device)
    half = F.cast(tx, BFLOAT16)
    assert half.dtype == BFLOAT16
    np.testing.assert_allclose(half.numpy(), x, rtol=2.0**-8, atol=0)
    half.backward(_core.from_numpy(dy, BFLOAT16, device))
    np.testing.assert_array_equal(tx.grad.numpy(), dy)
    assert F.cast(tx, FLOAT32) is tx
    np.testing.assert_array_equal(F.cast(half, FLOAT32).numpy(), half.numpy())


def test_casts_to_and_from_int32(device):
    values = np.array([0.0, -0.9, 1.9, -1.9, 2147483520.0, 3e9, -3e9, np.inf, -np.inf, np.nan])
    expected = [0, 0, 1, -1, 2147483520, 2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 0]
    assert _core.from_numpy(values, None, device).cast(INT32).numpy().tolist() == expected
    integers = _core.from_numpy(np.array([0, -5, 2**24 + 1, 2**31 - 1, -(2**31)]), None, device)
    assert integers.cast(FLOAT32).numpy().tolist() == [0.0, -5.0, 2.0**24, 2.0**31, -(2.0**31)]
    assert integers.cast(BFLOAT16).numpy().tolist() == [0.0, -5.0, 2.0**24, 2.0**31, -(2.0**31)]


def test_a_copy_of_one_type_keeps_every_bit(device):
    bits = np.arange(1 << 16, dtype=np.uint16)  # signalling NaNs too
    half = _core.from_bf16_bits(bits, device)
    np.testing.assert_array_equal(half.clone().bf16_bits(), bits)
    floats = _core.from_numpy((bits.astype(np.uint32) << 16 | bits).view(np.float32), None, device)
    np.testing.assert_array_equal(floats.clone().numpy().view(np.uint32), floats.numpy().view(np.uint32))


@pytest.mark.small
@pytest.mark.parametrize("dtype", [*DTYPES, INT32], ids=lambda d: d.name)
def test_fill(dtype, device):
    for n in (0, 1, 33, 5000):
        y = _core.empty((n,), dtype, device)
        y.fill_(-3.0)
        np.testing.assert_array_equal(y.numpy(), np.full(n, -3.0))


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_rows_at_any_address(dtype, device):
    """Vectors need addresses that are multiples of 16; a row of 37 elements may begin anywhere."""
    a, b = random_array((5, 37), 1, dtype=dtype), random_array((5, 37), 2, dtype=dtype)
    ta, tb = _core.from_numpy(a, dtype, device), _core.from_numpy(b, dtype, device)
    y = _core.add(ta.narrow(1, 3), tb.narrow(2, 3))
    np.testing.assert_array_equal(y.numpy(), _core.from_numpy(a[1:4] + b[2:5], dtype).numpy())
    ta.narrow(3, 1).copy_(tb.narrow(0, 1))
    np.testing.assert_array_equal(ta.numpy(), np.concatenate([a[:3], b[:1], a[4:]]))


def test_wrong_arguments_are_refused():
    a = leaf(np.ones((2, 3)))
    for name, (ours, _) in BINARY.items():
        with pytest.raises(ValueError, match=rf"{name}: b must have shape \(2, 3\), got \(3\)"):
            ours(a, leaf(np.ones(3)))
        with pytest.raises(ValueError, match=f"{name}: b must be float32, got bfloat16"):
            ours(a, leaf(np.ones((2, 3)), BFLOAT16))
        with pytest.raises(ValueError, match=f"{name}: a must be float32 or bfloat16, got int32"):
            ours(tensor([1, 2]), tensor([1, 2]))
    with pytest.raises(ValueError, match="scale: x must be float32 or bfloat16, got int32"):
        tensor([1, 2]) * 2.0
    with pytest.raises(ValueError, match="add_into: y must be float32, got bfloat16"):
        _core.add_into(_core.zeros((2,), BFLOAT16), _core.zeros((2,)))
    with pytest.raises(ValueError, match=r"add_into: x must have shape \(2\), got \(3\)"):
        _core.add_into(_core.zeros((2,)), _core.zeros((3,)))


def test_overlapping_rows_are_refused():
    x = _core.from_numpy(np.arange(12, dtype=np.float32).reshape(4, 3))
    front, back = x.narrow(0, 3), x.narrow(1, 3)
    for target, source in [(front, back), (back, front)]:
        with pytest.raises(ValueError, match="copy_: source and destination are overlapping rows of one tensor"):
            target.copy_(source)
        with pytest.raises(ValueError, match="add_into: source and destination are overlapping rows"):
            _core.add_into(target, source)
    x.narrow(0, 2).copy_(x.narrow(2, 2))  # neighbours are not
    back.copy_(back)
    _core.add_into(back, back)
    np.testing.assert_array_equal(x.numpy(), [[6, 7, 8], [18, 20, 22], [12, 14, 16], [18, 20, 22]])


def test_same_bits_for_any_number_of_threads():
    a, b = random_array((3 * GRAIN + 7,), 1), random_array((3 * GRAIN + 7,), 2)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        ta = leaf(a, BFLOAT16)
        y = F.scale(F.mul(F.cast(ta, FLOAT32), tensor(b)), 1.1, 0.3)
        y.backward(_core.from_numpy(b))
        results.append((y.numpy().copy(), ta.grad.numpy().copy()))
    _core.set_num_threads(0)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0][0], other[0])
        np.testing.assert_array_equal(results[0][1], other[1])
