from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import DTYPES, FLOAT32, ODD_SIZES, assert_close, leaf, poison_allocator, random_array
from tests.devices import schedules


def int_tensor(values: np.ndarray, device: str = "cpu") -> _core.Tensor:
    return _core.from_numpy(np.asarray(values, dtype=np.int32), None, device)


def sum_by_id(table_shape: tuple[int, int], ids: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """float64 reference of the gradient: every row of dy added to the row of its id."""
    total = np.zeros(table_shape)
    np.add.at(total, ids.reshape(-1), dy.reshape(-1, table_shape[1]))
    return total


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", ODD_SIZES)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7)])
def test_embedding(shape, C, dtype, device):
    V = 11
    ids = np.random.default_rng(0).integers(0, V, shape)
    weight, dy = random_array((V, C), 1, dtype=dtype), random_array((*shape, C), 2, dtype=dtype)
    tw = leaf(weight, dtype, device)
    poison_allocator(device)
    y = F.embedding(int_tensor(ids, device), tw)
    assert y.shape == (*shape, C) and y.device.startswith(device)
    np.testing.assert_array_equal(y.numpy(), weight[ids].astype(np.float32))

    y.backward(_core.from_numpy(dy, dtype, device))
    assert_close(tw.grad, sum_by_id((V, C), ids, dy), FLOAT32)  # accumulated in float32 whatever the dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("given", [False, True], ids=["counted positions", "given positions"])
@pytest.mark.parametrize("C", ODD_SIZES)
def test_token_position_embedding(C, given, dtype, device):
    V, P, B, T = 13, 9, 3, 7
    rng = np.random.default_rng(0)
    ids = rng.integers(0, V, (B, T))
    positions = rng.integers(0, P, (B, T)) if given else np.broadcast_to(np.arange(T), (B, T))
    token, position = random_array((V, C), 1, dtype=dtype), random_array((P, C), 2, dtype=dtype)
    dy = random_array((B, T, C), 3, dtype=dtype)
    tt, tp = leaf(token, dtype, device), leaf(position, dtype, device)
    poison_allocator(device)
    y = F.token_position_embedding(int_tensor(ids, device), int_tensor(positions, device) if given else None, tt, tp)
    assert_close(y, token[ids] + position[positions], dtype)

    y.backward(_core.from_numpy(dy, dtype, device))
    assert_close(tt.grad, sum_by_id((V, C), ids, dy), FLOAT32)
    assert_close(tp.grad, sum_by_id((P, C), positions, dy), FLOAT32)


# How ids may lie: on a GPU rows are sorted in tiles of 1024, by eight bits at a time, and added in pieces of 128.
LONG_IDS = {
    "all equal": lambda n: np.full(n, 7),
    "all different": lambda n: np.random.default_rng(1).permutation(n),
    "few": lambda n: np.random.default_rng(2).choice([0, 3, 255, 256, 69999], n),
    "one in most places": lambda n: np.where(np.random.default_rng(3).random(n) < 0.2, np.arange(n), 300),
}


@pytest.mark.small
@pytest.mark.parametrize("name", LONG_IDS)
def test_gradient_of_many_rows(name, device):
    """Whole numbers: every sum is exact, so that each row has to arrive once."""
    V, C, N = 70000, 8, 1024 + 128 + 5
    ids = LONG_IDS[name](N)
    dy = np.random.default_rng(0).integers(-8, 8, (N, C)).astype(np.float64)
    dweight = _core.zeros((V, C), device=device)
    _core.embedding_backward(dweight, _core.from_numpy(dy, None, device), int_tensor(ids, device))
    np.testing.assert_array_equal(dweight.numpy(), sum_by_id((V, C), ids, dy))


@pytest.mark.small
def test_rows_wider_than_a_warp(device):
    for C, dtype in ((264, DTYPES[1]), (301, DTYPES[0])):
        token, position = random_array((9, C), 1, dtype=dtype), random_array((6, C), 2, dtype=dtype)
        dy, ids = random_array((50, 5, C), 3, dtype=dtype), np.random.default_rng(0).integers(0, 9, (50, 5))
        tt, tp = leaf(token, dtype, device), leaf(position, dtype, device)
        y = F.token_position_embedding(int_tensor(ids, device), None, tt, tp)
        assert_close(y, token[ids] + position[:5], dtype)
        y.backward(_core.from_numpy(dy, dtype, device))
        assert_close(tt.grad, sum_by_id((9, C), ids, dy), FLOAT32)
        assert_close(tp.grad, np.concatenate([dy.sum(0), np.zeros((1, C))]), FLOAT32)


def test_gradients_accumulate_over_calls(device):
    weight, dy = leaf(np.ones((4, 8)), device=device), _core.from_numpy(np.ones((3, 8)), None, device)
    for _ in range(2):
        F.embedding(int_tensor([1, 1, 2], device), weight).backward(dy)
    np.testing.assert_array_equal(weight.grad.numpy()[:, 0], [0, 4, 2, 0])


def test_ids_outside_the_table_are_refused():
    weight = leaf(np.ones((5, 8)))
    with pytest.raises(IndexError, match=r"embedding: ids has the id 5 at element 2, but the table has 5 rows"):
        F.embedding(int_tensor([0, 4, 5]), weight)
    with pytest.raises(IndexError, match=r"has the id -1 at element 0"):
        F.embedding(int_tensor([-1]), weight)
    with pytest.raises(IndexError, match=r"positions has the id 6 at element 1, but the table has 6 rows"):
        F.token_position_embedding(int_tensor([[0, 0]]), int_tensor([[0, 6]]), weight, leaf(np.ones((6, 8))))
    with pytest.raises(IndexError, match=r"the sequence is 7 tokens long, but the table of positions has 6 rows"):
        F.token_position_embedding(int_tensor([[0] * 7]), None, weight, leaf(np.ones((6, 8))))


@pytest.mark.small
def test_ids_outside_the_table_on_a_device(device):
    """A GPU says so when the host waits next; until then such rows are zeros, and their gradients go nowhere."""
    if device == "cpu":  # there the op itself refuses them: test_ids_outside_the_table_are_refused
        return
    ids, positions = np.array([[0, 5, 4, -1, 2**31 - 1, -(2**31)]]), np.array([[0, 0, 6, 0, 0, -7]])
    weight, dy = random_array((5, 8), 1), random_array((1, 6, 8), 2)
    on_device = [int_tensor(ids, device), int_tensor(positions, device)]
    table = _core.from_numpy(weight, None, device)
    y = _core.token_position_embedding_forward(*on_device, table, table)
    with pytest.raises(IndexError, match="token_position_embedding: ids has the id 5 at element 1, but the table has"):
        y.numpy()
    expected = np.zeros((1, 6, 8))
    expected[0, 0] = 2 * weight[0]
    expected[0, 1] = expected[0, 3] = expected[0, 4] = weight[0]
    expected[0, 2] = weight[4]
    assert_close(y, expected, FLOAT32)

    dweight = _core.zeros((5, 8), device=device)
    _core.embedding_backward(dweight, _core.from_numpy(dy, None, device), on_device[0])
    with pytest.raises(IndexError, match="embedding_backward: ids has the id 5 at element 1, but the table has 5 rows"):
        _core.synchronize(device)
    _core.synchronize(device)
    expected = np.zeros((5, 8))
    expected[0], expected[4] = dy[0, 0], dy[0, 2]
    assert_close(dweight, expected, FLOAT32)


def test_wrong_types_and_shapes_are_refused():
    weight = leaf(np.ones((5, 8)))
    with pytest.raises(ValueError, match="embedding: ids must be int32, got float32"):
        F.embedding(_core.from_numpy(np.ones(3)), weight)
    with pytest.raises(ValueError, match=r"weight must have shape \(rows, channels\), got \(5\)"):
        F.embedding(int_tensor([0]), leaf(np.ones(5)))
    with pytest.raises(ValueError, match=r"position_weight must have shape \(6, 8\), got \(6, 7\)"):
        F.token_position_embedding(int_tensor([[0]]), None, weight, leaf(np.ones((6, 7))))
    with pytest.raises(ValueError, match=r"ids must have shape \(B, T\), got \(3\)"):
        F.token_position_embedding(int_tensor([0, 1, 2]), None, weight, weight)


def test_no_rows(device):
    weight = leaf(np.ones((5, 8)), device=device)
    y = F.embedding(int_tensor(np.zeros((2, 0)), device), weight)
    assert y.shape == (2, 0, 8)
    y.backward(_core.empty((2, 0, 8), device=device))
    assert not weight.grad.numpy().any()


def test_same_bits_for_any_number_of_threads():
    ids = np.random.default_rng(0).integers(0, 7, (4, 101))
    dy = random_array((4, 101, 200), 2)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        token, position = leaf(random_array((7, 200), 1)), leaf(random_array((101, 200), 3))
        y = F.token_position_embedding(int_tensor(ids), None, token, position)
        y.backward(_core.from_numpy(dy))
        results.append([t.numpy().copy() for t in (y, token.grad, position.grad)])
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_same_bits_every_time(device):
    ids = np.random.default_rng(0).integers(0, 7, (4, 301))
    dy = random_array((4, 301, 24), 2)
    results = []
    for _ in schedules(device):
        token, position = leaf(random_array((7, 24), 1), device=device), leaf(random_array((301, 24), 3), device=device)
        y = F.token_position_embedding(int_tensor(ids, device), None, token, position)
        y.backward(_core.from_numpy(dy, None, device))
        results.append([t.numpy().copy() for t in (y, token.grad, position.grad)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
