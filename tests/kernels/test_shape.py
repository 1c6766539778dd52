from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import tensor
from tests.cases import BFLOAT16, DTYPES, leaf, poison_allocator, random_array

# All results are copies of elements: every comparison is exact.


def check(function, numpys, shape, dtype, device="cpu"):
    """`function` and the same in NumPy agree forward; the gradient goes back to where the elements came from."""
    x = random_array(shape, 1, dtype=dtype)
    tx = leaf(x, dtype, device)
    poison_allocator(device)
    y = function(tx)
    assert y.device.startswith(device)
    np.testing.assert_array_equal(y.numpy(), numpys(x))
    dy = random_array(y.shape, 2, dtype=dtype)
    y.backward(_core.from_numpy(dy, dtype, device))
    origin = numpys(np.arange(x.size).reshape(shape))
    expected = np.zeros(x.size)
    np.add.at(expected, origin.ravel(), dy.ravel())
    np.testing.assert_array_equal(tx.grad.numpy().ravel(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(3,), (2, 5), (33, 31), (257, 129), (2, 3, 4), (2, 35, 3, 34), (2, 3, 1, 4, 5)])
def test_permute(shape, dtype, device):
    for axes in itertools.permutations(range(len(shape))):
        if len(shape) == 5 and axes[0] > 1:  # 48 of 120 are plenty
            continue
        if len(shape) > 3 and device != "cpu" and axes[1] > 1:  # and fewer still for four schedules
            continue
        check(lambda x, axes=axes: F.permute(x, axes), lambda x, axes=axes: x.transpose(axes), shape, dtype, device)


def test_permute_of_nothing_of_a_scalar_of_integers_and_with_negative_axes():
    assert F.permute(tensor(np.zeros((2, 0, 3))), (2, 0, 1)).shape == (3, 2, 0)
    assert F.permute(tensor(np.array(5.0)), ()).item() == 5.0
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(_core.permute(_core.from_numpy(x), [1, 0]).numpy(), x.T)
    check(lambda t: F.permute(t, (-1, 0, 1)), lambda x: x.transpose(-1, 0, 1), (2, 3, 4), DTYPES[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_view(dtype, device):
    check(lambda x: F.view(x, (3, -1)), lambda x: x.reshape(3, -1), (2, 3, 4), dtype, device)
    x = tensor(np.ones((2, 3)))
    assert F.view(x, (6,)).data.data_ptr == x.data.data_ptr


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat_and_split(axis, dtype, device):
    sizes = [2, 0, 33, 1]
    shape = [3, 4, 5]
    shape[axis] = sum(sizes)
    x, edges = random_array(tuple(shape), 1, dtype=dtype), np.cumsum(sizes)[:-1]
    pieces = [leaf(piece, dtype, device) for piece in np.split(x, edges, axis)]
    poison_allocator(device)
    whole = F.concat(pieces, axis)
    np.testing.assert_array_equal(whole.numpy(), x)
    dy = random_array(tuple(shape), 2, dtype=dtype)
    whole.backward(_core.from_numpy(dy, dtype, device))
    for piece, expected in zip(pieces, np.split(dy, edges, axis), strict=True):
        np.testing.assert_array_equal(piece.grad.numpy(), expected)

    tx = leaf(x, dtype, device)
    parts = F.split(tx, sizes, axis)
    for part, expected in zip(parts, np.split(x, edges, axis), strict=True):
        np.testing.assert_array_equal(part.numpy(), expected)
    loss = F.add(F.sum(F.scale(parts[0], 3.0)), F.sum(parts[2]))  # parts[3] is not used: its gradient is zero
    loss.backward()
    expected = np.concatenate(
        [np.full(p.shape, value) for p, value in zip(parts, (3.0, 0.0, 1.0, 0.0), strict=True)], axis
    )
    np.testing.assert_array_equal(tx.grad.numpy(), expected)


def test_wrong_arguments_are_refused():
    x = tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"permute: axes must name each of the 2 axes of x once.*got \(0\)"):
        F.permute(x, (0,))
    with pytest.raises(ValueError, match=r"permute: axis 0 appears twice in \(0, 0\)"):
        F.permute(x, (0, 0))
    with pytest.raises(ValueError, match=r"permute: axis 2 does not exist in shape \(2, 3\)"):
        F.permute(x, (0, 2))
    with pytest.raises(ValueError, match="permute: axes must name each of the 6 axes of x once, at most 5"):
        F.permute(tensor(np.ones((1,) * 6)), range(6))
    with pytest.raises(ValueError, match=r"view: \(2, 3\) cannot be seen as \(4, -1\)"):
        F.view(x, (4, -1))
    with pytest.raises(ValueError, match="concat: at least one tensor is needed"):
        F.concat([], 0)
    with pytest.raises(ValueError, match=r"concat: every tensor must have shape \(2, 3\), got \(2, 4\)"):
        F.concat([x, tensor(np.ones((2, 4)))], 0)
    with pytest.raises(ValueError, match="concat: every tensor must be float32, got bfloat16"):
        F.concat([x, leaf(np.ones((2, 3)), BFLOAT16)], 0)
    with pytest.raises(ValueError, match="concat: axis 2 does not exist"):
        F.concat([x, x], 2)
    with pytest.raises(ValueError, match=r"split: sizes \(1, 1\) must add up to 3, the size of axis 1 of \(2, 3\)"):
        F.split(x, [1, 1], 1)
    for sizes in ([4, -1], [3, 2**63 - 1, 2**63 - 1, 2]):  # the right sum does not make them right
        with pytest.raises(ValueError, match="must add up to 3.*and none may be negative"):
            F.split(x, sizes, 1)


def test_same_result_for_any_number_of_threads():
    x = random_array((7, 300, 5, 41), 1)
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        y = F.permute(tensor(x), (0, 2, 3, 1))
        np.testing.assert_array_equal(y.numpy(), x.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(F.concat(F.split(tensor(x), [100, 200], 1), 1).numpy(), x)
    _core.set_num_threads(0)
