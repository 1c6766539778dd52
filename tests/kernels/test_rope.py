from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import BFLOAT16, DTYPES, assert_close, check_gradient, leaf, poison_allocator, random_array


def reference(
    x: np.ndarray, cos: np.ndarray, sin: np.ndarray, HS: int, positions: np.ndarray, rotated: int
) -> np.ndarray:
    """transformers' `x * cos + rotate_half(x) * sin` on the first 2 * half elements of the first `rotated` heads."""
    B, T, width = x.shape
    half = cos.shape[1]
    y = x.reshape(B, T, width // HS, HS).copy()
    turned = y[:, :, :rotated, : 2 * half].copy()
    c, s = (np.concatenate([table[positions]] * 2, axis=-1)[:, :, None, :] for table in (cos, sin))
    rotate_half = np.concatenate([-turned[..., half:], turned[..., :half]], axis=-1)
    y[:, :, :rotated, : 2 * half] = turned * c + rotate_half * s
    return y.reshape(x.shape)


def tables(P: int, half: int) -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(P)[:, None] * 10.0 ** -np.linspace(0, 3, half)[None, :]
    return np.float32(1.1 * np.cos(angles)).astype(float), np.float32(1.1 * np.sin(angles)).astype(float)


def on_device(*arrays: np.ndarray, device: str = "cpu") -> list[_core.Tensor]:
    return [_core.from_numpy(array, None, device) for array in arrays]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("given", [False, True], ids=["counted positions", "given positions"])
@pytest.mark.parametrize(
    ("heads", "rotated", "HS", "half"),
    [(1, 1, 2, 1), (3, 3, 6, 3), (40, 36, 64, 32), (2, 2, 66, 33), (5, 3, 34, 17), (3, 2, 40, 16), (2, 0, 8, 4)],
)
def test_forward_and_backward(heads, rotated, HS, half, given, dtype, device):
    B, T, P = 3, 7, 11
    x, dy = (random_array((B, T, heads * HS), seed, dtype=dtype) for seed in (1, 2))
    cos, sin = tables(P, half)
    positions = np.random.default_rng(0).integers(0, P, (B, T)) if given else np.tile(np.arange(T), (B, 1))
    arguments = (*on_device(cos, sin, device=device), HS, *(on_device(positions, device=device) if given else [None]))
    tx = leaf(x, dtype, device)
    poison_allocator(device)
    y = F.rope(tx, *arguments, rotated=rotated) if rotated < heads else F.rope(tx, *arguments)
    assert y.device.startswith(device)
    assert_close(y, reference(x, cos, sin, HS, positions, rotated), dtype)

    y.backward(_core.from_numpy(dy, dtype, device))
    check_gradient(tx.grad, lambda v: (reference(v, cos, sin, HS, positions, rotated) * dy).sum(), x, dtype)


def test_backward_is_the_transpose():
    """<rope(x), dy> = <x, rope_backward(dy)> for every pair, to the last bits of a float32 sum."""
    cos, sin = tables(9, 20)
    x, dy = leaf(random_array((2, 9, 80), 1)), random_array((2, 9, 80), 2)
    y = F.rope(x, *on_device(cos, sin), 40)
    y.backward(_core.from_numpy(dy))
    assert (y.numpy() * dy).sum() == pytest.approx((x.numpy() * x.grad.numpy().astype(float)).sum(), rel=1e-5)


def test_wrong_arguments_are_refused():
    cos, sin = on_device(*tables(5, 4))
    x = leaf(np.ones((2, 5, 24)))
    with pytest.raises(ValueError, match=r"rope_forward: x must have shape \(B, T, heads \* 7\), got \(2, 5, 24\)"):
        F.rope(x, cos, sin, 7)
    with pytest.raises(ValueError, match=r"cos_table must have shape \(positions, up to head_size / 2 = 3\)"):
        F.rope(x, cos, sin, 6)
    with pytest.raises(ValueError, match=r"sin_table must have shape \(5, 4\), got \(4, 4\)"):
        F.rope(x, cos, sin.narrow(0, 4), 8)
    with pytest.raises(ValueError, match="cos_table must be float32, got bfloat16"):
        F.rope(x, cos.cast(BFLOAT16), sin, 8)
    with pytest.raises(ValueError, match="rotated must be from 0 to the 3 heads of x, got 4"):
        F.rope(x, cos, sin, 8, rotated=4)
    with pytest.raises(IndexError, match="the sequence is 5 tokens long, but the tables have 4 positions"):
        F.rope(x, cos.narrow(0, 4), sin.narrow(0, 4), 8)
    for wrong in (5, -1):
        positions = np.zeros((2, 5), np.int32)
        positions[1, 2] = wrong
        with pytest.raises(IndexError, match=rf"positions has {wrong} at element 7, but the tables have 5 positions"):
            F.rope(x, cos, sin, 8, _core.from_numpy(positions))
    with pytest.raises(ValueError, match=r"positions must have shape \(2, 5\), got \(1, 5\)"):
        F.rope(x, cos, sin, 8, _core.from_numpy(np.zeros((1, 5), np.int32)))


@pytest.mark.small
def test_any_address(device):
    """Vectors need addresses that are multiples of 16; a part of a tensor may begin anywhere."""
    x, (cos, sin) = random_array((4, 3, 32), 1), tables(9, 16)
    cos_flat, sin_flat = (_core.from_numpy(np.append(0.0, table), None, device) for table in (cos, sin))
    shifted = [flat.narrow(1, cos.size).view(cos.shape) for flat in (cos_flat, sin_flat)]
    y = _core.rope_forward(_core.from_numpy(x, None, device), *shifted, None, 32, 1)
    assert_close(y, reference(x, cos, sin, 32, np.tile(np.arange(3), (4, 1)), 1), DTYPES[0])


@pytest.mark.small
def test_positions_outside_the_tables_on_a_device(device):
    """A GPU says so when the host waits next; until then such rows are copied."""
    if device == "cpu":  # there the op itself refuses them: test_wrong_arguments_are_refused
        return
    x, (cos, sin) = random_array((1, 4, 8), 1), tables(5, 4)
    given = np.array([[2, 5, -(2**31), 1]])
    tensors = on_device(x, cos, sin, given, device=device)
    y = _core.rope_forward(*tensors, 8, 1)
    with pytest.raises(IndexError, match="rope_forward: positions has 5 at element 1, but the tables have 5 positions"):
        y.numpy()
    expected = reference(x, cos, sin, 8, np.array([[2, 0, 0, 1]]), 1)
    expected[0, 1:3] = x[0, 1:3]
    assert_close(y, expected, DTYPES[0])


def test_no_rows(device):
    cos, sin = on_device(*tables(5, 4), device=device)
    x = leaf(np.zeros((2, 0, 24)), device=device)
    y = F.rope(x, cos, sin, 8)
    assert y.shape == (2, 0, 24)
    y.backward(_core.zeros((2, 0, 24), device=device))
    assert x.grad.shape == (2, 0, 24)


def test_same_bits_for_any_number_of_threads():
    cos, sin = on_device(*tables(101, 16))
    x, dy = random_array((3, 101, 96), 1), random_array((3, 101, 96), 2)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        tx = leaf(x)
        y = F.rope(tx, cos, sin, 32, rotated=2)
        y.backward(_core.from_numpy(dy))
        results.append([t.numpy().copy() for t in (y, tx.grad)])
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
