from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Tensor
from tests.cases import BFLOAT16, DTYPES, FLOAT32, assert_close, check_gradient, leaf, poison_allocator, random_array
from tests.devices import schedules

TRANSPOSES = list(itertools.product([False, True], repeat=2))
ACTIVATIONS = [None, "gelu_new", "gelu", "relu", "silu", "tanh"]

# (M, N, K) around the sizes at which the CPU kernels change their ways: strips (4, 6, 14, 32 rows), panels (8, 16, 32
# columns), blocks of K (256 to 1024), tiles (as wide as half of the second-level cache, so most machines need more than
# one for the test below; 64 and 128 with CUDA), and all that is smaller.
SHAPES = [
    *((1, 1, 1), (1, 33, 7), (3, 1, 31), (15, 31, 33), (14, 32, 16), (29, 65, 257)),
    *((5, 513, 9), (563, 3, 5), (2, 40, 385), (31, 17, 769), (64, 64, 64), (45, 35, 2085)),
]


def transposed(x: np.ndarray, transpose: bool) -> np.ndarray:
    return np.swapaxes(x, -1, -2) if transpose else x


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def activate(x: np.ndarray, name: str | None) -> np.ndarray:
    if name == "gelu_new":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if name == "gelu":
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))
    if name == "relu":
        return np.maximum(x, 0)
    if name == "silu":
        return x / (1 + np.exp(-x))
    return np.tanh(x) if name == "tanh" else x


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("transpose_a, transpose_b", TRANSPOSES)
@pytest.mark.parametrize("M, N, K", SHAPES)
def test_integers_are_exact(M, N, K, transpose_a, transpose_b, dtype, device):
    """Small integers and their sums have no rounding in float32; a bfloat16 result is rounded once."""
    generator = np.random.default_rng(M * 1000 + N * 10 + K)
    a = generator.integers(-3, 4, (K, M) if transpose_a else (M, K)).astype(np.float32)
    b = generator.integers(-3, 4, (N, K) if transpose_b else (K, N)).astype(np.float32)
    ta, tb = _core.from_numpy(a, dtype, device), _core.from_numpy(b, dtype, device)
    poison_allocator(device)
    y = _core.matmul(ta, tb, transpose_a, transpose_b)
    expected = transposed(a, transpose_a) @ transposed(b, transpose_b)
    np.testing.assert_array_equal(y.numpy(), _core.from_numpy(expected, dtype).numpy())

    total = _core.from_numpy(generator.integers(-9, 9, (M, N)).astype(np.float32), None, device)
    expected = expected + total.numpy()
    _core.matmul_add(total, ta, tb, transpose_a, transpose_b)
    np.testing.assert_array_equal(total.numpy(), expected)

    total.fill_(float("nan"))  # overwritten, not added to
    _core.matmul_add(total, ta, tb, transpose_a, transpose_b, False)
    np.testing.assert_array_equal(total.numpy(), transposed(a, transpose_a) @ transposed(b, transpose_b))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("transpose_a, transpose_b", TRANSPOSES)
@pytest.mark.parametrize("M, N, K", [(40, 1400, 390), (5000, 950, 900)])
def test_several_tiles_and_several_packings(M, N, K, transpose_a, transpose_b, dtype):
    """Wider than half of the second-level cache; and more rows than the CPU packs at once."""
    generator = np.random.default_rng(1)
    a = generator.integers(-3, 4, (K, M) if transpose_a else (M, K)).astype(np.float32)
    b = generator.integers(-3, 4, (N, K) if transpose_b else (K, N)).astype(np.float32)
    y = _core.matmul(_core.from_numpy(a, dtype), _core.from_numpy(b, dtype), transpose_a, transpose_b)
    expected = transposed(a, transpose_a) @ transposed(b, transpose_b)
    np.testing.assert_array_equal(y.numpy(), _core.from_numpy(expected, dtype).numpy())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("transpose_a, transpose_b", TRANSPOSES)
@pytest.mark.parametrize("batch_a, batch_b", [((), ()), ((2, 3), (2, 3)), ((4,), ()), ((), (4,))])
def test_gradients(batch_a, batch_b, transpose_a, transpose_b, dtype, device):
    M, N, K = 9, 18, 21
    a = random_array((*batch_a, *((K, M) if transpose_a else (M, K))), 1, dtype=dtype)
    b = random_array((*batch_b, *((N, K) if transpose_b else (K, N))), 2, dtype=dtype)
    ta, tb = leaf(a, dtype, device), leaf(b, dtype, device)

    def reference(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return transposed(u, transpose_a) @ transposed(v, transpose_b)

    poison_allocator(device)
    y = F.matmul(ta, tb, transpose_a, transpose_b)
    expected = reference(a, b)
    assert y.shape == expected.shape and y.device.startswith(device)
    assert_close(y, expected, dtype, scale=np.sqrt(K))
    dy = random_array(expected.shape, 3, dtype=dtype)
    y.backward(_core.from_numpy(dy, dtype, device))
    check_gradient(ta.grad, lambda v: (reference(v, b) * dy).sum(), a, dtype, scale=np.sqrt(K))
    check_gradient(tb.grad, lambda v: (reference(a, v) * dy).sum(), b, dtype, scale=np.sqrt(K))


def test_gradients_of_a_shared_operand_are_not_rounded_to_bfloat16(device):
    ones = np.ones((300, 1))
    weight = leaf(np.ones((1, 1)), BFLOAT16, device)
    for x in (ones, ones[:1]):
        F.matmul(leaf(x, BFLOAT16, device), weight).backward(_core.from_numpy(x, BFLOAT16, device))
    assert weight.grad.item() == 301  # bfloat16 has no 301


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transpose_weight", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear(with_bias, transpose_weight, activation, dtype, device):
    B, T, N, K = 3, 7, 37, 19
    x = random_array((B, T, K), 1, dtype=dtype)
    weight = random_array((N, K) if transpose_weight else (K, N), 2, 0.5, dtype=dtype)
    bias = random_array((N,), 3, dtype=dtype) if with_bias else np.zeros(N)
    residual = random_array((B, T, N), 4, dtype=dtype)
    dy = random_array((B, T, N), 5, dtype=dtype)

    def reference(x, weight, bias, residual) -> np.ndarray:
        return residual + activate(x @ transposed(weight, transpose_weight) + bias, activation)

    values = [x, weight, bias, residual]
    tensors = [leaf(value, dtype, device) for value in values]
    poison_allocator(device)
    y = F.linear(tensors[0], tensors[1], tensors[2] if with_bias else None, activation, transpose_weight, tensors[3])
    assert_close(y, reference(*values), dtype, scale=np.sqrt(K))
    y.backward(_core.from_numpy(dy, dtype, device))
    for i in range(4):
        if i == 2 and not with_bias:
            continue

        def loss(value: np.ndarray, i: int = i) -> float:
            return (reference(*values[:i], value, *values[i + 1 :]) * dy).sum()

        check_gradient(tensors[i].grad, loss, values[i], dtype, scale=np.sqrt(K))


def activation_slope(x: np.ndarray, name: str, step: float = 1e-6) -> np.ndarray:
    return (activate(x + step, name) - activate(x - step, name)) / (2 * step)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transpose_weight", [True, False])
@pytest.mark.parametrize("M, N, K", [(1, 5, 3), (37, 19, 67), (133, 40, 385)])
def test_gradient_through_an_activation_and_its_bias(M, N, K, transpose_weight, activation, dtype, device):
    dy, pre = random_array((M, N), 1, dtype=dtype), random_array((M, K), 2, 2.0, dtype=dtype)
    weight = random_array((N, K) if transpose_weight else (K, N), 3, dtype=dtype)
    before = random_array((K,), 4)
    dbias = _core.from_numpy(before, None, device)
    tensors = [_core.from_numpy(values, dtype, device) for values in (dy, weight, pre)]
    poison_allocator(device)
    dpre = _core.linear_activation_backward(*tensors, activation or "", transpose_weight, dbias)
    expected = dy @ transposed(weight, not transpose_weight)
    if activation is not None:
        expected *= activation_slope(pre, activation)
    assert_close(dpre, expected, dtype, scale=np.sqrt(N))
    # The sums are taken of float values: only a device that rounds dpre before it sums has bfloat16's tolerance.
    sums = dtype if device != "cpu" else FLOAT32
    assert_close(dbias, before + expected.sum(0), sums, scale=np.sqrt(N * M))
    without = _core.linear_activation_backward(*tensors, activation or "", transpose_weight, None)
    np.testing.assert_array_equal(without.numpy(), dpre.numpy())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("with_biases", [True, False])
@pytest.mark.parametrize("activation, transpose_weight", [("gelu_new", False), ("gelu", True), ("silu", True)])
def test_feed_forward(activation, transpose_weight, with_biases, dtype, device):
    B, T, C, H, C2 = 2, 9, 19, 37, 21
    x = random_array((B, T, C), 1, dtype=dtype)
    weight1 = random_array((H, C) if transpose_weight else (C, H), 2, 0.3, dtype=dtype)
    weight2 = random_array((C2, H) if transpose_weight else (H, C2), 3, 0.3, dtype=dtype)
    bias1, bias2 = random_array((H,), 4, dtype=dtype), random_array((C2,), 5, dtype=dtype)
    values = [x, weight1, bias1 if with_biases else 0 * bias1, weight2, bias2 if with_biases else 0 * bias2]
    dy = random_array((B, T, C2), 6, dtype=dtype)

    def reference(x, weight1, bias1, weight2, bias2) -> np.ndarray:
        hidden = activate(x @ transposed(weight1, transpose_weight) + bias1, activation)
        return hidden @ transposed(weight2, transpose_weight) + bias2

    tensors = [leaf(value, dtype, device) for value in values]
    given = [tensor if with_biases or i not in (2, 4) else None for i, tensor in enumerate(tensors)]
    poison_allocator(device)
    y = F.feed_forward(*given, activation, transpose_weight)
    assert_close(y, reference(*values), dtype, scale=np.sqrt(H))
    y.backward(_core.from_numpy(dy, dtype, device))
    for i, tensor in enumerate(given):
        if tensor is None:
            continue

        def loss(value: np.ndarray, i: int = i) -> float:
            return (reference(*values[:i], value, *values[i + 1 :]) * dy).sum()

        check_gradient(tensor.grad, loss, values[i], dtype, scale=np.sqrt(H))


@pytest.mark.small
@pytest.mark.parametrize("needed", range(5))
def test_feed_forward_gives_only_what_is_needed(needed, device):
    shapes = [(3, 4), (5, 4), (5,), (2, 5), (2,)]
    values = [random_array(shape, seed) for seed, shape in enumerate(shapes)]
    everything = [leaf(value, device=device) for value in values]
    F.feed_forward(*everything, "gelu").backward(_core.from_numpy(np.ones((3, 2)), None, device))
    one = [Tensor(_core.from_numpy(value, None, device), requires_grad=i == needed) for i, value in enumerate(values)]
    F.feed_forward(*one, "gelu").backward(_core.from_numpy(np.ones((3, 2)), None, device))
    for i in range(5):
        if i == needed:
            np.testing.assert_array_equal(one[i].grad.numpy(), everything[i].grad.numpy())
        else:
            assert one[i].grad is None


@pytest.mark.small
def test_linear_adds_into_gradients_that_are_there(device):
    x, weight, bias = (leaf(value, device=device) for value in (np.ones((2, 3)), np.ones((4, 3)), np.zeros(4)))
    for _ in range(2):
        y = F.linear(x, weight, bias)
        y.backward(_core.from_numpy(np.ones((2, 4)), None, device))
    np.testing.assert_array_equal(weight.grad.numpy(), np.full((4, 3), 4))
    np.testing.assert_array_equal(bias.grad.numpy(), np.full(4, 4))
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 8))


def test_linear_without_gradients_keeps_no_pre_activation():
    x, weight = np.ones((64, 64)), np.ones((64, 64))
    inference = Tensor(_core.from_numpy(x)), Tensor(_core.from_numpy(weight))
    y = F.linear(*inference, activation="gelu")
    assert not y.requires_grad
    _core.reset_peak_memory("cpu")
    before = _core.memory_stats("cpu")["allocated"]
    F.linear(*inference, activation="gelu")
    without = _core.memory_stats("cpu")["peak_allocated"] - before
    _core.reset_peak_memory("cpu")
    F.linear(leaf(x), inference[1], activation="gelu")
    # x is copied into the leaf, and the pre-activation is kept
    assert _core.memory_stats("cpu")["peak_allocated"] - before >= without + 2 * 64 * 64 * 4


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_activations_over_the_whole_range(activation, device):
    """Bounds of cpu/simd_math.h, through products with 1: over all magnitudes, and densely where things happen."""
    magnitudes = np.concatenate([np.logspace(-38, 38, 5000), np.linspace(0, 12, 20011)])
    x = np.concatenate([magnitudes, -magnitudes]).astype(np.float32)[:: 1 if device == "cpu" else 7]
    one, points = leaf(np.ones((1, 1)), device=device), leaf(x[:, None], device=device)
    y = F.linear(one, points, activation=activation)  # (1, points)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = activate(wide, activation)
    scale = np.maximum(1, np.abs(wide))
    np.testing.assert_allclose(y.numpy()[0] / scale, expected / scale, atol=2e-7, rtol=0)

    y.backward(_core.from_numpy(np.ones((1, x.size)), None, device))
    with np.errstate(over="ignore"):
        step = 1e-5
        slope = (activate(wide + step, activation) - activate(wide - step, activation)) / (2 * step)
    inside = (np.abs(wide) < 30) & ((np.abs(wide) > 2 * step) | (activation != "relu"))
    np.testing.assert_allclose(points.grad.numpy()[inside, 0], slope[inside], atol=3e-7, rtol=0)
    outer = points.grad.numpy()[np.abs(wide) > 30, 0]
    expected_outer = (wide > 0) & (activation != "tanh")
    np.testing.assert_allclose(outer, expected_outer[np.abs(wide) > 30], atol=1e-11)  # silu(-30)


def test_tanh_is_relatively_exact(device):
    x = np.concatenate([np.logspace(-30, 2, 4001), -np.logspace(-30, 2, 4001)]).astype(np.float32)
    one = Tensor(_core.from_numpy(np.ones((1, 1)), None, device))
    points = Tensor(_core.from_numpy(x[:, None], None, device))
    np.testing.assert_allclose(
        F.linear(one, points, activation="tanh").numpy()[0], np.tanh(x.astype(np.float64)), rtol=2.4e-7
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_nan(activation, device):
    x = leaf(np.array([[np.nan], [1.0]]), device=device)
    y = F.linear(x, leaf(np.ones((1, 1)), device=device), activation=activation)
    y.backward(_core.from_numpy(np.ones((2, 1)), None, device))
    assert np.isnan(y.numpy()[0, 0]) and np.isfinite(y.numpy()[1, 0])
    if activation is not None:
        assert np.isnan(x.grad.numpy()[0, 0]) and np.isfinite(x.grad.numpy()[1, 0])


@pytest.mark.parametrize("M, N, K", [(0, 5, 3), (5, 0, 3), (5, 3, 0), (0, 0, 0)])
def test_empty(M, N, K, device):
    x, weight, bias = (leaf(value, device=device) for value in (np.ones((M, K)), np.ones((N, K)), np.full(N, 2.0)))
    poison_allocator(device)
    y = F.linear(x, weight, bias)
    np.testing.assert_array_equal(y.numpy(), np.full((M, N), K + 2.0))
    y.backward(_core.from_numpy(np.ones((M, N)), None, device))
    np.testing.assert_array_equal(weight.grad.numpy(), np.full((N, K), M))
    np.testing.assert_array_equal(bias.grad.numpy(), np.full(N, M))
    np.testing.assert_array_equal(x.grad.numpy(), np.full((M, K), N))
    dy, pre = (_core.from_numpy(np.ones(shape), None, device) for shape in ((M, N), (M, K)))
    dbias = _core.from_numpy(np.ones(K), None, device)
    assert _core.linear_activation_backward(dy, weight.data, pre, "relu", True, dbias).shape == (M, K)
    np.testing.assert_array_equal(dbias.numpy(), np.full(K, 1 + M * N))
    batch = F.matmul(leaf(np.ones((0, M, K)), device=device), leaf(np.ones((0, K, N)), device=device))
    assert batch.shape == (0, M, N)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("M, N, K", [(103, 205, 401), (64, 1408, 416), (1, 300, 1300)])
def test_same_bits_for_any_number_of_threads(M, N, K, dtype):
    x, weight = random_array((M, K), 1, dtype=dtype), random_array((N, K), 2, dtype=dtype)
    bias, dy = random_array((N,), 3, dtype=dtype), random_array((M, N), 4, dtype=dtype)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        tensors = [leaf(value, dtype) for value in (x, weight, bias)]
        y = F.linear(*tensors, activation="gelu_new")
        y.backward(_core.from_numpy(dy, dtype))
        results.append([y.numpy().copy(), *(t.grad.numpy().copy() for t in tensors)])
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("M, N, K", [(203, 401, 96), (1030, 40, 70)])  # cut between columns, between rows
def test_same_bits_of_bias_gradients_for_any_number_of_threads(M, N, K, dtype):
    dy, pre = random_array((M, K), 1, dtype=dtype), random_array((M, N), 2, dtype=dtype)
    tensors = [_core.from_numpy(values, dtype) for values in (dy, random_array((K, N), 3, dtype=dtype), pre)]
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        dbias = _core.zeros((N,), FLOAT32, "cpu")
        dpre = _core.linear_activation_backward(*tensors, "gelu_new", True, dbias)
        results.append((dpre.numpy().copy(), dbias.numpy().copy()))
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_same_bits_every_time(dtype, device):
    values = [random_array(shape, 1, dtype=dtype) for shape in ((203, 96), (72, 96), (72,))]
    dy = _core.from_numpy(random_array((203, 72), 2, dtype=dtype), dtype, device)
    results = []
    for _ in schedules(device):
        tensors = [leaf(value, dtype, device) for value in values]
        y = F.linear(*tensors, activation="gelu_new")
        y.backward(dy)
        results.append([y.numpy().copy(), *(t.grad.numpy().copy() for t in tensors)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_long_sums_of_few_rows(dtype, device):
    """On CUDA they are cut into parts: what follows a product comes once, after their sum; the same bits every time."""
    x, weight = random_array((3, 1100), 1, dtype=dtype), random_array((37, 1100), 2, 0.1, dtype=dtype)
    bias, residual = random_array((37,), 3, dtype=dtype), random_array((3, 37), 4, dtype=dtype)
    tensors = [_core.from_numpy(value, dtype, device) for value in (x, weight, bias, residual)]
    results = []
    for _ in schedules(device):
        y, pre = _core.linear_forward(*tensors[:3], "relu", tensors[3], True, True)
        results.append((y.numpy().copy(), pre.numpy().copy()))
    expected = x @ weight.T + bias
    assert_close(pre, expected, dtype, scale=np.sqrt(1100))
    assert_close(y, np.maximum(expected, 0) + residual, dtype, scale=np.sqrt(1100))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_long_sums_of_a_batch(dtype, device):
    a, b = random_array((3, 5, 700), 1, dtype=dtype), random_array((3, 700, 9), 2, dtype=dtype)
    y = _core.matmul(_core.from_numpy(a, dtype, device), _core.from_numpy(b, dtype, device), False, False)
    assert_close(y, a @ b, dtype, scale=np.sqrt(700))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_a_row_alone_has_the_bits_it_has_in_a_batch(dtype, device):
    K = 776 if device == "cpu" else 504  # see csrc/kernels/matmul.h: on CUDA longer sums may be cut, by M, too
    x, weight = random_array((150, K), 1, dtype=dtype), random_array((90, K), 2, dtype=dtype)
    on_device = _core.from_numpy(weight, dtype, device)
    together = _core.matmul(_core.from_numpy(x, dtype, device), on_device, False, True).numpy()
    for row in (0, 13, 14, 149):
        alone = _core.matmul(_core.from_numpy(x[row : row + 1], dtype, device), on_device, False, True).numpy()
        np.testing.assert_array_equal(alone[0], together[row])


# Steps around a vector, a line of 16 or 32, a block (384 and 768), and rows that are pages or sets of a cache apart.
FEW_STEPS = [1, 5, 31, 33, 385, 769, 1024]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("transpose_a, transpose_b", TRANSPOSES)
@pytest.mark.parametrize("many", [1, 33, 300])
def test_few_rows_or_columns_have_the_bits_of_many(many, transpose_a, transpose_b, dtype):
    """A few rows, or a few columns, go another way than many; each element must not know."""
    for K in FEW_STEPS:
        a, b = random_array((60, K), 1), random_array((K, 300), 2)
        whole = _core.matmul(_core.from_numpy(a, dtype), _core.from_numpy(b, dtype), False, False).numpy()
        assert_close(_core.from_numpy(whole), a @ b, BFLOAT16, scale=np.sqrt(K) * 4)
        poison_allocator(nbytes=1 << 18)
        for few in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17):
            for M, N in ((few, many), (min(many, 60), few)):
                left, right = (transposed(x, t) for x, t in ((a[:M], transpose_a), (b[:, :N], transpose_b)))
                operands = (_core.from_numpy(np.ascontiguousarray(x), dtype) for x in (left, right))
                y = _core.matmul(*operands, transpose_a, transpose_b).numpy()
                np.testing.assert_array_equal(y, whole[:M, :N], err_msg=f"{M} x {N} x {K}")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("transpose_weight", [True, False])
@pytest.mark.parametrize("M, N", [(1, 300), (5, 300), (8, 40), (300, 1), (300, 2), (45, 8)])
def test_few_rows_or_columns_with_all_that_follows_a_product(M, N, transpose_weight, dtype):
    """The same bits as the rows have in a batch, for 1 to 4 threads: bias, activation, residual, slopes, bias sums."""
    K, rows = 400, max(M, 60)
    x, residual, pre = random_array((rows, K), 1), random_array((rows, N), 2), random_array((rows, N), 3)
    weight, bias = random_array((N, K) if transpose_weight else (K, N), 4), random_array((N,), 5)
    constants = [_core.from_numpy(value, dtype) for value in (weight, bias)]

    def run(n: int) -> list[np.ndarray]:
        x_n, residual_n, pre_n = (_core.from_numpy(value[:n], dtype) for value in (x, residual, pre))
        y, kept = _core.linear_forward(x_n, *constants, "gelu_new", residual_n, transpose_weight, True)
        slopes = _core.linear_activation_backward(x_n, constants[0], pre_n, "silu", not transpose_weight, None)
        return [y.numpy(), kept.numpy(), slopes.numpy()]

    expected = [values[:M] for values in run(rows)]
    forward = activate(x[:M] @ transposed(weight, transpose_weight) + bias, "gelu_new") + residual[:M]
    assert_close(_core.from_numpy(expected[0]), forward, BFLOAT16, scale=np.sqrt(K) * 4)
    sums = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        poison_allocator(nbytes=1 << 18)
        for actual, wanted in zip(run(M), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)
        dbias = _core.zeros((N,), FLOAT32, "cpu")
        operands = (_core.from_numpy(value, dtype) for value in (x[:M], weight, pre[:M]))
        _core.linear_activation_backward(*operands, "silu", not transpose_weight, dbias)
        sums.append(dbias.numpy().copy())
    _core.set_num_threads(0)
    product = x[:M] @ transposed(weight, transpose_weight) * activation_slope(pre[:M], "silu")
    assert_close(_core.from_numpy(sums[0]), product.sum(0), BFLOAT16, scale=np.sqrt(K * M) * 4)
    for other in sums[1:]:
        np.testing.assert_array_equal(other, sums[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("transpose_b", [True, False])
def test_a_batch_of_products_with_few_rows(transpose_b, dtype):
    a = np.random.default_rng(1).integers(-3, 4, (5, 3, 70)).astype(np.float32)
    b = np.random.default_rng(2).integers(-3, 4, (5, 41, 70) if transpose_b else (5, 70, 41)).astype(np.float32)
    y = _core.matmul(_core.from_numpy(a, dtype), _core.from_numpy(b, dtype), False, transpose_b)
    expected = a @ transposed(b, transpose_b)
    np.testing.assert_array_equal(y.numpy(), _core.from_numpy(expected, dtype).numpy())


def test_wrong_arguments_are_refused():
    def array(*shape: int, dtype: _core.DType = FLOAT32) -> Tensor:
        return leaf(np.ones(shape), dtype)

    with pytest.raises(ValueError, match=r"matmul: the summed dimensions differ: a \(2, 3\) has 3, b \(4, 5\) has 4"):
        F.matmul(array(2, 3), array(4, 5))
    with pytest.raises(ValueError, match=r"a \(3, 2\) transposed has 3"):
        F.matmul(array(3, 2), array(4, 5), transpose_a=True)
    with pytest.raises(ValueError, match="matmul: the dimensions before the last two must be equal"):
        F.matmul(array(2, 2, 3), array(3, 3, 4))
    with pytest.raises(ValueError, match="matmul: a and b need at least two dimensions"):
        F.matmul(array(3), array(3, 4))
    with pytest.raises(ValueError, match="matmul: b must be float32, got bfloat16"):
        F.matmul(array(2, 3), array(3, 4, dtype=BFLOAT16))
    with pytest.raises(ValueError, match=r"linear: weight must have shape \(4, 3\), got \(4, 5\)"):
        F.linear(array(2, 3), array(4, 5))
    with pytest.raises(ValueError, match=r"linear: bias must have shape \(4\), got \(3\)"):
        F.linear(array(2, 3), array(4, 3), array(3))
    with pytest.raises(ValueError, match=r"linear: residual must have shape \(2, 4\), got \(2, 3\)"):
        F.linear(array(2, 3), array(4, 3), residual=array(2, 3))
    with pytest.raises(ValueError, match=r"linear_activation_backward: pre must have shape \(2, 3\), got \(2, 4\)"):
        _core.linear_activation_backward(*(array(*s).data for s in ((2, 4), (4, 3), (2, 4))), "gelu", True, None)
    with pytest.raises(ValueError, match=r"linear_activation_backward: dbias must have shape \(3\), got \(4\)"):
        dbias = array(4).data
        _core.linear_activation_backward(*(array(*s).data for s in ((2, 4), (4, 3), (2, 3))), "gelu", True, dbias)
    with pytest.raises(ValueError, match='linear: activation must be None, "gelu_new".* got "gelux"'):
        F.linear(array(2, 3), array(4, 3), activation="gelux")
