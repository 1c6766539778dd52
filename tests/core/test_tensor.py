"""_core.Tensor: conversion from and to NumPy, views, types, and bfloat16's rounding, element for element."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from llmcore import _core
from tests.cases import BFLOAT16, FLOAT32

INT32 = _core.DType.int32


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 0, 2), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_round_trip(dtype, shape):
    array = np.asarray(np.random.default_rng(0).standard_normal(shape) * 1000).astype(dtype)
    tensor = _core.from_numpy(array)
    assert tensor.shape == shape and tensor.numel == array.size and tensor.nbytes == array.nbytes
    assert tensor.dtype == (FLOAT32 if dtype == np.float32 else INT32) and tensor.device == "cpu"
    back = tensor.numpy()
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int16", "uint32", "int64", "uint64", "bool"])
def test_other_types_are_converted(dtype):
    array = np.array([[0, 1, 100], [5, 6, 1]]).astype(dtype)
    tensor = _core.from_numpy(array)
    assert tensor.dtype == (FLOAT32 if dtype.startswith("float") else INT32)
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert _core.from_numpy(array, BFLOAT16).dtype == BFLOAT16
    np.testing.assert_array_equal(_core.from_numpy(array, FLOAT32).numpy(), array)


def test_strides_and_order_do_not_matter():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (array.transpose(2, 0, 1), array[:, ::-1], array[..., 1::2], np.asfortranarray(array), array[:0]):
        np.testing.assert_array_equal(_core.from_numpy(view).numpy(), view)
    swapped = array.astype(">f4")
    np.testing.assert_array_equal(_core.from_numpy(swapped).numpy(), array)


def test_from_numpy_copies_and_numpy_shares():
    array = np.ones(4, np.float32)
    tensor = _core.from_numpy(array)
    array[0] = 5
    assert tensor.numpy()[0] == 1
    view = tensor.numpy()
    view[1] = 7
    assert tensor.numpy()[1] == 7
    copy = tensor.cast(BFLOAT16).numpy()
    copy[:] = 9
    assert tensor.cast(BFLOAT16).numpy()[0] == 1


def test_an_array_keeps_the_memory_alive():
    view = _core.from_numpy(np.full(1000, 3.0)).numpy()
    bits = _core.from_numpy(np.full(1000, 3.0), BFLOAT16).bf16_bits()
    gc.collect()
    for _ in range(10):  # would be handed the freed blocks
        _core.empty((1000,)).fill_(-1.0)
        _core.empty((1000,), BFLOAT16).fill_(-1.0)
    assert (view == 3.0).all()
    assert (bits == 0x4040).all()


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**40])
def test_integers_outside_int32_are_refused(value):
    with pytest.raises(ValueError, match=f"from_numpy: {value} does not fit into int32"):
        _core.from_numpy(np.array([0, value]))


def test_integers_at_the_edge_of_int32_fit():
    edges = np.array([2**31 - 1, -(2**31)])
    assert _core.from_numpy(edges).numpy().tolist() == edges.tolist()
    for value in (2**63, 2**64 - 1):  # negative when read as int64
        with pytest.raises(ValueError, match=f"from_numpy: {value} does not fit into int32"):
            _core.from_numpy(np.array([value], np.uint64))


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([None]), np.array(["2020"], "M8[D]")])
def test_what_is_not_a_number_is_refused(array):
    with pytest.raises(ValueError, match="from_numpy: cannot read an array of .*; expected floats or integers"):
        _core.from_numpy(array)


def test_views_share_the_storage():
    tensor = _core.from_numpy(np.arange(12, dtype=np.float32))
    view = tensor.view((3, -1))
    assert view.shape == (3, 4) and view.data_ptr == tensor.data_ptr
    rows = view.narrow(1, 2)
    assert rows.shape == (2, 4)
    np.testing.assert_array_equal(rows.numpy(), np.arange(4, 12).reshape(2, 4))
    rows.fill_(-1.0)
    np.testing.assert_array_equal(tensor.numpy(), [0, 1, 2, 3] + [-1] * 8)
    last = rows.narrow(1, 1).view((2, 2))
    last.copy_(_core.from_numpy(np.array([[1, 2], [3, 4]])))
    np.testing.assert_array_equal(tensor.numpy()[8:], [1, 2, 3, 4])

    half = _core.from_numpy(np.arange(6), BFLOAT16).view((3, 2)).narrow(2, 1)
    np.testing.assert_array_equal(half.numpy(), [[4, 5]])
    assert rows.narrow(2, 0).shape == (0, 4) and _core.empty((0, 3)).narrow(0, 0).shape == (0, 3)


def test_a_view_keeps_the_memory_alive():
    rows = _core.from_numpy(np.full((4, 250), 3.0)).narrow(2, 2)
    gc.collect()
    for _ in range(10):
        _core.empty((4, 250)).fill_(-1.0)
    assert (rows.numpy() == 3.0).all()


def test_wrong_views_are_refused():
    tensor = _core.zeros((2, 3))
    for shape in [(4,), (2, 2), (4, -1), (-1, -1), (-2, -3)]:
        with pytest.raises(ValueError):
            tensor.view(shape)
    with pytest.raises(ValueError, match=r"view: \(2, 3\) cannot be seen as \(5\)"):
        tensor.view((5,))
    for start, length in [(-1, 1), (0, 3), (2, 1), (1, -1), (2**63 - 1, 1), (1, 2**63 - 1)]:
        with pytest.raises(ValueError, match=r"narrow: rows .* are not inside \(2, 3\)"):
            tensor.narrow(start, length)
    with pytest.raises(ValueError, match=r"view: the -1 in \(0, -1\) could be any size"):
        _core.zeros((0, 3)).view((0, -1))
    with pytest.raises(ValueError, match=r"narrow: rows .* are not inside \(\)"):
        _core.zeros(()).narrow(0, 0)


def test_none_is_no_tensor():
    with pytest.raises(TypeError):
        _core.Tensor.view(None, (1,))
    with pytest.raises(TypeError):
        _core.Tensor.narrow(None, 0, 1)
    for name in ("shape", "dtype", "numel", "nbytes", "device", "data_ptr"):
        with pytest.raises(TypeError):
            getattr(_core.Tensor, name).fget(None)


def test_creation():
    assert not _core.zeros((2, 3)).numpy().any()
    assert _core.empty((2,), INT32).dtype == INT32
    with pytest.raises(ValueError, match=r"cannot have the shape \(2, -1\): sizes are zero or more"):
        _core.empty((2, -1))
    for shape in [(2**40, 2**40), (0, 2**40, 2**40)]:  # products of some sizes overflow in an empty tensor, too
        with pytest.raises(ValueError, match="more elements than can be addressed"):
            _core.empty(shape)
    for function in (_core.empty, _core.zeros):
        with pytest.raises(ValueError, match='device must be "cpu", "cuda" or "cuda:<index>", got "tpu"'):
            function((1,), FLOAT32, "tpu")


def test_items():
    assert _core.from_numpy(np.array(1.5)).item() == 1.5
    assert _core.from_numpy(np.array([[7]])).item() == 7 and isinstance(_core.from_numpy(np.array([7])).item(), int)
    assert _core.from_numpy(np.array([1.5]), BFLOAT16).item() == 1.5
    with pytest.raises(ValueError, match=r"item: the tensor must have one element, got shape \(2\)"):
        _core.zeros((2,)).item()


def test_fill_and_copy():
    for dtype in (FLOAT32, BFLOAT16, INT32):
        tensor = _core.empty((37,), dtype)
        tensor.fill_(-3.0)
        np.testing.assert_array_equal(tensor.numpy(), np.full(37, -3))
        for other in (FLOAT32, BFLOAT16, INT32):
            target = _core.empty((37,), other)
            target.copy_(tensor)
            np.testing.assert_array_equal(target.numpy(), np.full(37, -3))
        clone = tensor.clone()
        clone.fill_(0.0)
        assert tensor.numpy()[0] == -3
    with pytest.raises(ValueError, match=r"copy_: source must have shape \(3\), got \(4\)"):
        _core.zeros((3,)).copy_(_core.zeros((4,)))
    with pytest.raises(ValueError, match="bf16_bits: tensor must be bfloat16, got float32"):
        _core.zeros((3,)).bf16_bits()


def test_repr():
    assert repr(_core.zeros((2, 3), BFLOAT16)) == "_core.Tensor(shape=(2, 3), dtype=bfloat16, device=cpu)"


# ------------------------------------------------------------------------------------------- bfloat16


def test_every_bfloat16_is_read_exactly():
    bits = np.arange(1 << 16, dtype=np.uint16)
    half = _core.empty((1 << 16,), BFLOAT16)
    half.bf16_bits()[:] = bits
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(half.numpy()[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(half.numpy()[~number]).all()
    again = half.cast(FLOAT32).cast(BFLOAT16).bf16_bits()
    np.testing.assert_array_equal(again[number], bits[number])


# Every upper half with lower halves below, at and above the tie: ties, overflow to infinity, subnormals, zeros, NaNs.
LOWER = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
EVERY_CASE = ((np.arange(1 << 16, dtype=np.uint32)[:, None] << 16) | LOWER).ravel().view(np.float32)


def check_rounding(bits: np.ndarray, values: np.ndarray) -> None:
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(bits[number], expected[number])
    assert np.isnan((bits[~number].astype(np.uint32) << 16).view(np.float32)).all()
    signs = (values.view(np.uint32) >> 31).astype(np.uint16)
    np.testing.assert_array_equal(bits[~number] >> 15, signs[~number])  # a NaN keeps its sign


def test_rounding_to_bfloat16_is_to_nearest_even():
    check_rounding(_core.from_numpy(EVERY_CASE, BFLOAT16).bf16_bits(), EVERY_CASE)


# Zeros, subnormals, ones, the largest, infinity, the first and the last NaN. In the last of a kind a carry runs over.
EDGES = np.array([0x0000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0x7F81, 0x7FC0, 0x7FFF], np.uint32)
EDGE_CASES = ((np.concatenate([EDGES, EDGES | 0x8000])[:, None] << 16) | LOWER).ravel().view(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 15])
def test_rounding_in_the_tail_of_a_vector(n):
    for first in range(0, EDGE_CASES.size, n):
        row = EDGE_CASES[first : first + n]
        check_rounding(_core.from_numpy(row, BFLOAT16).bf16_bits(), row)


@pytest.mark.parametrize(
    "value, expected",
    [
        (1 + 2.0**-8, 1.0),  # ties go to the even neighbour
        (1 + 3 * 2.0**-8, 1 + 2.0**-6),
        (-1 - 2.0**-8, -1.0),
        (np.nextafter(np.float32(1 + 2.0**-8), np.float32(2)), 1 + 2.0**-7),
        (3.4028235e38, np.inf),  # the largest float32 is nearer to infinity than to the largest bfloat16
        (3.3895314e38, 3.3895314e38),
        (1e-45, 0.0),
        (9.1835e-41, 9.1835e-41),  # the smallest bfloat16 above zero, a subnormal: copies keep those
        (np.inf, np.inf),
        (-np.inf, -np.inf),
    ],
)
def test_roundings_by_hand(value, expected):
    for half in (_core.from_numpy(np.array([value]), BFLOAT16), _core.from_numpy(np.full(64, value), BFLOAT16)):
        np.testing.assert_allclose(half.numpy(), np.float32(expected), rtol=1e-7 if abs(value) > 1e-30 else 1e-4)
    if abs(value) < 1.2e-38:
        return  # as a number that a kernel computes with it counts as zero: tests/core/test_subnormals.py
    filled = _core.empty((1,), BFLOAT16)
    filled.fill_(float(value))
    np.testing.assert_array_equal(filled.numpy(), half.numpy()[:1])
