from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcore import _core
from tests.cases import BFLOAT16, DTYPES, ODD_SIZES, poison_allocator, random_array
from tests.devices import schedules

PIECE = 1 << 16  # kNormPiece: the length that one task sums up


@pytest.mark.small
@pytest.mark.parametrize("sizes", [[n] for n in ODD_SIZES] + [[PIECE - 1], [PIECE + 1], [3, 0, 2 * PIECE + 5, 1]])
def test_global_norm_is_correctly_rounded(sizes, device):
    arrays = [random_array((n,), n) for n in sizes]
    poison_allocator(device)
    norm = _core.global_norm([_core.from_numpy(array, None, device) for array in arrays])
    assert norm.device.startswith(device)
    expected = np.sqrt(sum((array**2).sum() for array in arrays))
    assert norm.shape == (1,)
    np.testing.assert_allclose(norm.item(), expected, rtol=2.0**-24)  # half an ulp of float32: the only rounding


def test_global_norm_of_nothing_and_of_any_shape():
    assert _core.global_norm([]).item() == 0.0
    assert _core.global_norm([_core.zeros((0, 3))]).item() == 0.0
    assert _core.global_norm([_core.from_numpy(np.full((2, 2), 2.0)), _core.from_numpy(np.array(3.0))]).item() == 5.0


def test_global_norm_neither_overflows_nor_loses_small_numbers(device):
    big = _core.from_numpy(np.full(4, 1e30), None, device)
    assert _core.global_norm([big]).item() == pytest.approx(2e30, rel=1e-6)  # the squares exceed float32
    small = _core.from_numpy(np.full(4, 1e-30), None, device)
    assert _core.global_norm([small]).item() == pytest.approx(2e-30, rel=1e-6)
    assert np.isnan(_core.global_norm([big, _core.from_numpy(np.array([np.nan]), None, device)]).item())
    assert np.isinf(_core.global_norm([_core.from_numpy(np.array([-np.inf]), None, device)]).item())


@pytest.mark.small
def test_global_norm_at_any_address_and_of_many_pieces(device):
    array = random_array((30,), 1)
    part = _core.from_numpy(array, None, device).narrow(1, 29)
    norm = _core.global_norm([part] * 300)
    np.testing.assert_allclose(norm.item(), np.sqrt(300 * (array[1:] ** 2).sum()), rtol=2.0**-24)


def test_clipping_is_torchs():
    gradients = [random_array((33,), 1), random_array((4, 5), 2)]
    for max_norm in (0.0, 0.5, 1.0, 100.0, float("inf")):
        parameters = [torch.nn.Parameter(torch.zeros(g.shape)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        total = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        norm = _core.global_norm([_core.from_numpy(g) for g in gradients])
        factor = _core.clip_factor(norm, max_norm)
        np.testing.assert_allclose(norm.item(), total.item(), rtol=1e-6)
        np.testing.assert_allclose(factor.item() * gradients[0], parameters[0].grad.numpy(), rtol=1e-6)


def test_clip_factor(device):
    def factor(norm: float, max_norm: float) -> float:
        return _core.clip_factor(_core.from_numpy(np.array([norm]), None, device), max_norm).item()

    assert factor(2.0, 1.0) == pytest.approx(0.5, rel=2e-6) and factor(2.0, 0.0) == 0.0
    assert np.isnan(factor(np.nan, 1.0))
    assert factor(np.inf, 1.0) == 0.0
    assert factor(0.0, 1.0) == factor(0.5, 1.0) == factor(3.0, np.inf) == 1.0


def is_finite(x: _core.Tensor) -> bool:
    flag = _core.all_finite(x)
    assert flag.shape == (1,) and flag.device == x.device and flag.item() in (0, 1)
    return flag.item() == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_all_finite_sees_one_bad_element_anywhere(bad, dtype, device):
    n = 2 * PIECE + 19
    values = np.zeros(n)
    values[[1, -2]] = np.finfo(np.float32).max * 0.99, -1e-45  # the largest and the smallest are finite
    assert is_finite(_core.from_numpy(values, dtype, device))
    for index in (0, 15, PIECE - 1, PIECE, n - 20, n - 1):
        values[index], before = bad, values[index]
        assert not is_finite(_core.from_numpy(values, dtype, device)), index
        values[index] = before
    assert is_finite(_core.zeros((0,), dtype, device))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="global_norm: every tensor must be float32, got bfloat16"):
        _core.global_norm([_core.zeros((2,)), _core.zeros((2,), BFLOAT16)])
    with pytest.raises(ValueError, match="clip_factor: max_norm must be 0 or more, got -1"):
        _core.clip_factor(_core.zeros((1,)), -1.0)
    with pytest.raises(ValueError, match="clip_factor: max_norm must be 0 or more, got nan"):
        _core.clip_factor(_core.zeros((1,)), float("nan"))
    with pytest.raises(ValueError, match=r"clip_factor: norm must have shape \(1\), got \(2\)"):
        _core.clip_factor(_core.zeros((2,)), 1.0)
    with pytest.raises(ValueError, match="all_finite: x must be float32 or bfloat16, got int32"):
        _core.all_finite(_core.zeros((2,), _core.DType.int32))


def test_same_bits_for_any_number_of_threads():
    x = _core.from_numpy(random_array((9 * PIECE + 7,), 1))
    norms = set()
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        norms.add(_core.global_norm([x, x]).item())
    _core.set_num_threads(0)
    assert len(norms) == 1


def test_same_bits_every_time(device):
    x = _core.from_numpy(random_array((9 * PIECE + 7,), 1), None, device)
    assert len({_core.global_norm([x, x]).item() for _ in schedules(device)}) == 1
