from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Tensor, no_grad
from tests.cases import BFLOAT16, DTYPES, FLOAT32, assert_close, check_gradient, leaf, poison_allocator, random_array

IGNORE = -100


def ids(values: np.ndarray | list) -> Tensor:
    return Tensor(_core.from_numpy(np.asarray(values, dtype=np.int32)))


def random_targets(N: int, V: int, ignored: float = 0.3) -> np.ndarray:
    generator = np.random.default_rng(7)
    targets = generator.integers(0, V, N)
    targets[generator.random(N) < ignored] = IGNORE
    targets[N // 2] = V - 1  # at least one that counts, at the edge of the table
    return targets


def losses_of(logits: np.ndarray, targets: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """(N, V), (N,) -> (N,), 0 where ignored."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    rows = np.arange(len(targets))
    nll = -log_probabilities[rows, np.where(targets == IGNORE, 0, targets)]
    loss = (1 - smoothing) * nll - smoothing * log_probabilities.mean(-1)
    return np.where(targets == IGNORE, 0.0, loss)


def reference(logits: np.ndarray, targets: np.ndarray, smoothing: float = 0.0, num_items: float | None = None) -> float:
    return losses_of(logits, targets, smoothing).sum() / (num_items or (targets != IGNORE).sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("N, V", [(1, 1), (1, 17), (7, 31), (5, 33), (3, 8191), (300, 65)])
@pytest.mark.parametrize("smoothing, num_items", [(0.0, None), (0.1, 11.0)])
def test_forward_and_backward(N, V, smoothing, num_items, dtype):
    logits, targets = random_array((N, V), 1, 3.0, dtype=dtype), random_targets(N, V)
    tensor = leaf(logits, dtype)
    poison_allocator()
    loss = F.cross_entropy(tensor, ids(targets), IGNORE, smoothing, num_items)
    assert loss.shape == () and loss.dtype == FLOAT32
    assert_close(loss, reference(logits, targets, smoothing, num_items), FLOAT32)
    loss.backward()
    size = 1 / (num_items or (targets != IGNORE).sum())  # of the terms, which cancel for V = 1
    check_gradient(tensor.grad, lambda v: reference(v, targets, smoothing, num_items), logits, dtype, scale=size)
    assert not tensor.grad.numpy()[targets == IGNORE].any()


def linear_case(dtype: _core.DType, N: int = 37, V: int = 129, C: int = 19) -> tuple:
    x, weight = random_array((N, C), 1, dtype=dtype), random_array((V, C), 2, dtype=dtype)
    return x, weight, random_targets(N, V)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("smoothing, num_items", [(0.0, None), (0.1, 11.0)])
def test_linear_forward_and_backward(smoothing, num_items, fused, dtype):
    x, weight, targets = linear_case(dtype)
    tx, tw = leaf(x, dtype), leaf(weight, dtype)
    poison_allocator()
    loss = F.linear_cross_entropy(tx, tw, ids(targets), IGNORE, smoothing, num_items, fused)

    def f(u: np.ndarray, v: np.ndarray) -> float:
        return reference(u @ v.T, targets, smoothing, num_items)

    assert_close(loss, f(x, weight), FLOAT32)  # the logits are float32 for bfloat16, too
    loss.backward()
    size = 1 / (num_items or (targets != IGNORE).sum())
    check_gradient(tx.grad, lambda v: f(v, weight), x, dtype, scale=size)
    # += in float32, but each term was rounded: the gradients of the logits have the type of x
    check_gradient(tw.grad, lambda v: f(x, v), weight, dtype, scale=size)


@pytest.mark.parametrize("fused", [False, True])
def test_many_chunks_give_what_one_gives(fused):
    """N = 2100 rows of 1000 logits are three chunks; the reference takes all rows at once."""
    x, weight, targets = linear_case(FLOAT32, 2100, 1000, 8)
    tx, tw = leaf(x), leaf(weight)
    loss = F.linear_cross_entropy(tx, tw, ids(targets), fused_backward=fused)
    loss.backward()
    ux, uw = leaf(x), leaf(weight)
    whole = F.cross_entropy(F.matmul(ux, uw, transpose_b=True), ids(targets))
    whole.backward()
    scale = 1 / 2100
    assert_close(loss, whole.numpy(), FLOAT32)
    assert_close(tx.grad, ux.grad.numpy(), FLOAT32, scale)
    assert_close(tw.grad, uw.grad.numpy(), FLOAT32, scale)


def test_logits_exist_for_a_chunk_only():
    N, V, C = 4096, 4096, 4
    x, weight = leaf(np.ones((N, C))), leaf(np.ones((V, C)))
    targets = ids(np.zeros(N))
    _core.reset_peak_memory("cpu")
    before = _core.memory_stats("cpu")["allocated"]
    F.linear_cross_entropy(x, weight, targets, fused_backward=True).backward()
    assert _core.memory_stats("cpu")["peak_allocated"] - before < N * V * 4 / 4


def test_a_large_vocabulary_takes_fewer_rows_at_a_time():
    N, V = 200, 1 << 17  # the logits of all rows: 100 MiB
    x, weight = _core.from_numpy(np.ones((N, 1))), _core.from_numpy(np.ones((V, 1)))
    _core.reset_peak_memory("cpu")
    before = _core.memory_stats("cpu")["allocated"]
    _core.linear_cross_entropy_per_token(x, weight, ids(np.zeros(N)).data)
    assert _core.memory_stats("cpu")["peak_allocated"] - before < 72 << 20


@pytest.mark.parametrize("fused", [False, True])
def test_only_the_gradients_that_are_wanted(fused):
    x, weight, targets = linear_case(FLOAT32)
    both = leaf(x), leaf(weight)
    F.linear_cross_entropy(*both, ids(targets), fused_backward=fused).backward()
    frozen = Tensor(_core.from_numpy(weight))
    tx = leaf(x)
    F.linear_cross_entropy(tx, frozen, ids(targets), fused_backward=fused).backward()
    np.testing.assert_array_equal(tx.grad.numpy(), both[0].grad.numpy())
    tw = leaf(weight)
    F.linear_cross_entropy(Tensor(_core.from_numpy(x)), tw, ids(targets), fused_backward=fused).backward()
    np.testing.assert_array_equal(tw.grad.numpy(), both[1].grad.numpy())
    with no_grad():
        tw = leaf(weight)
        F.linear_cross_entropy(leaf(x), tw, ids(targets), fused_backward=fused)
    assert frozen.grad is None and tw.grad is None


def test_gradients_are_added_and_scaled():
    x, weight, targets = linear_case(FLOAT32)
    once, thrice = leaf(weight), leaf(weight)
    F.linear_cross_entropy(leaf(x), once, ids(targets)).backward()
    (F.linear_cross_entropy(leaf(x), thrice, ids(targets)) * 2.0).backward()
    F.linear_cross_entropy(leaf(x), thrice, ids(targets), fused_backward=True).backward()
    np.testing.assert_allclose(thrice.grad.numpy(), 3 * once.grad.numpy(), rtol=1e-5, atol=1e-7)

    logits = random_array((5, 9), 3)
    plain, scaled = leaf(logits), leaf(logits)
    F.cross_entropy(plain, ids([1, 2, 3, 4, 5])).backward()
    (F.cross_entropy(scaled, ids([1, 2, 3, 4, 5])) * 4.0).backward()
    np.testing.assert_allclose(scaled.grad.numpy(), 4 * plain.grad.numpy(), rtol=1e-6)


def test_a_fused_backward_refuses_other_gradients():
    x, weight, targets = linear_case(FLOAT32)
    loss = F.linear_cross_entropy(leaf(x), leaf(weight), ids(targets), fused_backward=True)
    with pytest.raises(RuntimeError, match="arrived with the gradient 2.0"):
        (loss * 2.0).backward()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_per_token(dtype):
    x, weight, targets = linear_case(dtype, 2048 + 5)
    nll = _core.linear_cross_entropy_per_token(
        _core.from_numpy(x, dtype), _core.from_numpy(weight, dtype), ids(targets).data, IGNORE
    )
    assert_close(nll, losses_of(x @ weight.T, targets), FLOAT32)
    batch = _core.linear_cross_entropy_per_token(
        _core.from_numpy(x[:6].reshape(2, 3, -1), dtype),
        _core.from_numpy(weight, dtype),
        ids(targets[:6].reshape(2, 3)).data,
    )
    np.testing.assert_array_equal(batch.numpy(), nll.numpy()[:6].reshape(2, 3))


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_large_logits_neither_overflow_nor_vanish(shift):
    logits = random_array((4, 50), 1) + shift
    logits = logits.astype(np.float32).astype(np.float64)
    tensor = leaf(logits)
    loss = F.cross_entropy(tensor, ids([0, 10, 20, 49]))
    np.testing.assert_allclose(loss.item(), reference(logits, np.array([0, 10, 20, 49])), atol=2e-3)
    loss.backward()
    np.testing.assert_allclose(tensor.grad.numpy().sum(-1), 0, atol=1e-3)
    masked = leaf(np.array([[-np.inf, 0.0, 0.0]]))
    assert F.cross_entropy(masked, ids([1])).item() == pytest.approx(np.log(2), abs=1e-6)


def test_nan_is_not_hidden():
    assert np.isnan(F.cross_entropy(leaf(np.array([[0.0, np.nan, 1.0]])), ids([0])).item())


def test_nothing_to_predict():
    logits = leaf(random_array((3, 5), 1))
    loss = F.cross_entropy(logits, ids([IGNORE] * 3))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.numpy().any()
    for fused in (False, True):
        x, weight = leaf(np.ones((0, 4))), leaf(np.ones((5, 4)))
        loss = F.linear_cross_entropy(x, weight, ids(np.zeros(0)), fused_backward=fused)
        loss.backward()
        assert loss.item() == 0 and x.grad.shape == (0, 4) and not weight.grad.numpy().any()


def test_ids_outside_the_vocabulary_are_refused():
    logits, x, weight = leaf(np.ones((2, 7))), leaf(np.ones((2, 3))), leaf(np.ones((7, 3)))
    for bad in (7, -1, 2**31 - 1):
        with pytest.raises(IndexError, match=rf"cross_entropy: targets has the id {bad} at element 1.* for 7 ids"):
            F.cross_entropy(logits, ids([0, bad]))
        with pytest.raises(IndexError, match=f"linear_cross_entropy: targets has the id {bad}"):
            F.linear_cross_entropy(x, weight, ids([0, bad]))
        with pytest.raises(IndexError, match=f"linear_cross_entropy_per_token: targets has the id {bad}"):
            _core.linear_cross_entropy_per_token(x.data, weight.data, ids([0, bad]).data)
    assert F.cross_entropy(logits, ids([-1, 3]), ignore_index=-1).item() == pytest.approx(np.log(7), abs=1e-6)
    assert F.cross_entropy(logits, ids([5, 3]), ignore_index=5).item() == pytest.approx(np.log(7), abs=1e-6)


def test_wrong_arguments_are_refused():
    logits, x, weight = leaf(np.ones((2, 7))), leaf(np.ones((2, 3))), leaf(np.ones((7, 4)))
    with pytest.raises(ValueError, match=r"cross_entropy: targets must have shape \(2\), got \(3\)"):
        F.cross_entropy(logits, ids([0, 1, 2]))
    with pytest.raises(ValueError, match="targets must be int32, got float32"):
        F.cross_entropy(logits, leaf(np.zeros(2)))
    with pytest.raises(ValueError, match=r"linear_cross_entropy: weight must have shape \(V, 3\), got \(7, 4\)"):
        F.linear_cross_entropy(x, weight, ids([0, 1]))
    with pytest.raises(ValueError, match="weight must be float32, got bfloat16"):
        F.linear_cross_entropy(x, leaf(np.ones((7, 3)), BFLOAT16), ids([0, 1]))
    with pytest.raises(ValueError, match="there must be logits for at least one id"):
        F.cross_entropy(leaf(np.ones((2, 0))), ids([IGNORE, IGNORE]))
    with pytest.raises(ValueError, match="label_smoothing must be between 0 and 1, got 1.5"):
        F.cross_entropy(logits, ids([0, 1]), label_smoothing=1.5)
    with pytest.raises(ValueError, match="num_items must be positive or None, got 0"):
        F.cross_entropy(logits, ids([0, 1]), num_items=0)


def test_what_the_forward_pass_kept_is_checked():
    logits, targets, one = _core.zeros((4, 8)), ids([0, 1, 2, 3]).data, _core.zeros((1,))
    options = _core.CrossEntropyOptions(IGNORE, 0.0, None)
    wrong = {"lse": (_core.zeros((3,)), one), "scale": (_core.zeros((4,)), _core.zeros((0,)))}
    for name, kept in wrong.items():
        with pytest.raises(ValueError, match=f"cross_entropy_backward: {name} must have shape"):
            _core.cross_entropy_backward(_core.zeros(()), logits, *kept, targets, options)
        with pytest.raises(ValueError, match=f"linear_cross_entropy_backward: {name} must have shape"):
            _core.linear_cross_entropy_backward(_core.zeros(()), logits, logits, *kept, targets, None, True, options)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_same_bits_for_any_number_of_threads(dtype):
    x, weight, targets = linear_case(dtype, 1500, 1031, 40)
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        values = []
        for fused in (False, True):
            tx, tw = leaf(x, dtype), leaf(weight, dtype)
            loss = F.linear_cross_entropy(tx, tw, ids(targets), label_smoothing=0.1, fused_backward=fused)
            loss.backward()
            values += [loss.item(), tx.grad.numpy().copy(), tw.grad.numpy().copy()]
        logits = leaf(x, dtype)
        F.cross_entropy(logits, ids(np.where(targets < 0, targets, targets % 40))).backward()
        results.append([*values, logits.grad.numpy().copy()])
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_agrees_with_torch(smoothing):
    torch = pytest.importorskip("torch")
    logits, targets = random_array((40, 77), 1, 2.0), random_targets(40, 77)
    ours = leaf(logits)
    loss = F.cross_entropy(ours, ids(targets), label_smoothing=smoothing)
    loss.backward()
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(theirs, torch.tensor(targets), label_smoothing=smoothing)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-7)
