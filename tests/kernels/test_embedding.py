from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from tests.cases import DTYPES, FLOAT32, ODD_SIZES, assert_close, leaf, poison_allocator, random_array


def int_tensor(values: np.ndarray) -> _core.Tensor:
    return _core.from_numpy(np.asarray(values, dtype=np.int32))


def sum_by_id(table_shape: tuple[int, int], ids: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """float64 reference of the gradient: every row of dy added to the row of its id."""
    total = np.zeros(table_shape)
    np.add.at(total, ids.reshape(-1), dy.reshape(-1, table_shape[1]))
    return total


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("C", ODD_SIZES)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7)])
def test_embedding(shape, C, dtype):
    V = 11
    ids = np.random.default_rng(0).integers(0, V, shape)
    weight, dy = random_array((V, C), 1, dtype=dtype), random_array((*shape, C), 2, dtype=dtype)
    tw = leaf(weight, dtype)
    poison_allocator()
    y = F.embedding(int_tensor(ids), tw)
    assert y.shape == (*shape, C)
    np.testing.assert_array_equal(y.numpy(), weight[ids].astype(np.float32))

    y.backward(_core.from_numpy(dy, dtype))
    assert_close(tw.grad, sum_by_id((V, C), ids, dy), FLOAT32)  # accumulated in float32 whatever the dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("given", [False, True], ids=["counted positions", "given positions"])
@pytest.mark.parametrize("C", ODD_SIZES)
def test_token_position_embedding(C, given, dtype):
    V, P, B, T = 13, 9, 3, 7
    rng = np.random.default_rng(0)
    ids = rng.integers(0, V, (B, T))
    positions = rng.integers(0, P, (B, T)) if given else np.broadcast_to(np.arange(T), (B, T))
    token, position = random_array((V, C), 1, dtype=dtype), random_array((P, C), 2, dtype=dtype)
    dy = random_array((B, T, C), 3, dtype=dtype)
    tt, tp = leaf(token, dtype), leaf(position, dtype)
    poison_allocator()
    y = F.token_position_embedding(int_tensor(ids), int_tensor(positions) if given else None, tt, tp)
    assert_close(y, token[ids] + position[positions], dtype)

    y.backward(_core.from_numpy(dy, dtype))
    assert_close(tt.grad, sum_by_id((V, C), ids, dy), FLOAT32)
    assert_close(tp.grad, sum_by_id((P, C), positions, dy), FLOAT32)


def test_gradients_accumulate_over_calls():
    weight, dy = leaf(np.ones((4, 8))), _core.from_numpy(np.ones((3, 8)))
    for _ in range(2):
        F.embedding(int_tensor([1, 1, 2]), weight).backward(dy)
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


def test_no_rows():
    weight = leaf(np.ones((5, 8)))
    y = F.embedding(int_tensor(np.zeros((2, 0))), weight)
    assert y.shape == (2, 0, 8)
    y.backward(_core.empty((2, 0, 8)))
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
