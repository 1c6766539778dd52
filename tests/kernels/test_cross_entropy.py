from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Tensor, no_grad
from tests.cases import BFLOAT16, DTYPES, FLOAT32, assert_close, check_gradient, leaf, poison_allocator, random_array
from tests.devices import schedules

IGNORE = -100


def ids(values: np.ndarray | list, device: str = "cpu") -> Tensor:
    return Tensor(_core.from_numpy(np.asarray(values, dtype=np.int32), None, device))


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
    loss = (1 - smoothing) * nll
    if smoothing:
        loss -= smoothing * log_probabilities.mean(-1)
    return np.where(targets == IGNORE, 0.0, loss)


def reference(logits: np.ndarray, targets: np.ndarray, smoothing: float = 0.0, num_items: float | None = None) -> float:
    return losses_of(logits, targets, smoothing).sum() / (num_items or (targets != IGNORE).sum())


def gradient_of_logits(logits: np.ndarray, targets: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Of `reference`: (softmax - (1 - smoothing) [target] - smoothing / V) / number of targets."""
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    wanted = np.full(logits.shape, smoothing / logits.shape[1])
    counted = targets != IGNORE
    wanted[counted, targets[counted]] += 1 - smoothing
    return (probabilities - wanted) * counted[:, None] / counted.sum()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("N, V", [(1, 1), (1, 17), (7, 31), (5, 33), (3, 8191), (2, 8200), (300, 65)])
@pytest.mark.parametrize("smoothing, num_items", [(0.0, None), (0.1, 11.0)])
def test_forward_and_backward(N, V, smoothing, num_items, dtype, device):
    logits, targets = random_array((N, V), 1, 3.0, dtype=dtype), random_targets(N, V)
    tensor = leaf(logits, dtype, device)
    poison_allocator(device)
    loss = F.cross_entropy(tensor, ids(targets, device), IGNORE, smoothing, num_items)
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
def test_linear_forward_and_backward(smoothing, num_items, fused, dtype, device):
    x, weight, targets = linear_case(dtype)
    tx, tw = leaf(x, dtype, device), leaf(weight, dtype, device)
    poison_allocator(device)
    loss = F.linear_cross_entropy(tx, tw, ids(targets, device), IGNORE, smoothing, num_items, fused)

    def f(u: np.ndarray, v: np.ndarray) -> float:
        return reference(u @ v.T, targets, smoothing, num_items)

    assert_close(loss, f(x, weight), FLOAT32)  # the logits are float32 for bfloat16, too
    loss.backward()
    size = 1 / (num_items or (targets != IGNORE).sum())
    check_gradient(tx.grad, lambda v: f(v, weight), x, dtype, scale=size)
    # += in float32, but each term was rounded: the gradients of the logits have the type of x
    check_gradient(tw.grad, lambda v: f(x, v), weight, dtype, scale=size)


@pytest.mark.parametrize("V", [5, 15, 16, 33, 2100])
@pytest.mark.parametrize("fused", [False, True])
def test_bf16_gradients_in_the_place_of_the_logits(fused, V):
    """1100 rows of 2100 logits are three chunks; short rows begin where the tail of a row is all of it."""
    x, weight, targets = linear_case(BFLOAT16, 1100, V, 8)
    tx, tw = leaf(x, BFLOAT16), leaf(weight, BFLOAT16)
    loss = F.linear_cross_entropy(tx, tw, ids(targets), IGNORE, 0.1, fused_backward=fused)
    loss.backward()
    assert_close(loss, reference(x @ weight.T, targets, 0.1), FLOAT32)
    dlogits = gradient_of_logits(x @ weight.T, targets, 0.1)
    assert_close(tx.grad, dlogits @ weight, BFLOAT16, 1 / 1100)
    # 1100 terms, each rounded by up to 2^-9 of itself: one sigma of their sum is about 1 % of the largest of them
    assert_close(tw.grad, dlogits.T @ x, BFLOAT16, 4 * np.abs(dlogits).max())


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


def test_a_chunk_of_a_gpu_has_8192_rows(device):
    N = 8192 + 5
    x, weight, targets = linear_case(FLOAT32, N, 3, 2)
    tx, tw = leaf(x, device=device), leaf(weight, device=device)
    F.linear_cross_entropy(tx, tw, ids(targets, device), fused_backward=True).backward()
    dlogits = gradient_of_logits(x @ weight.T, targets)
    assert_close(tx.grad, dlogits @ weight, FLOAT32, 1 / N)
    assert_close(tw.grad, dlogits.T @ x, FLOAT32)


@pytest.mark.parametrize("V, dtype", [(9000, BFLOAT16), (9001, BFLOAT16), (60001, FLOAT32)])
def test_rows_that_a_block_keeps_and_rows_too_long_for_it(V, dtype, device):
    """60000 floats are more than the shared memory of any GPU so far; rows of an odd length are not aligned."""
    x, weight, targets = linear_case(dtype, 3, V, 1)
    targets[0], targets[1] = IGNORE, 5
    tx, tw = leaf(x, dtype, device), leaf(weight, dtype, device)
    loss = F.linear_cross_entropy(tx, tw, ids(targets, device), label_smoothing=0.1, fused_backward=True)
    loss.backward()
    assert_close(loss, reference(x @ weight.T, targets, 0.1), FLOAT32)
    dlogits = gradient_of_logits(x @ weight.T, targets, 0.1)
    assert_close(tx.grad, dlogits @ weight, dtype)
    assert_close(tw.grad, dlogits.T @ x, dtype, np.abs(dlogits).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_logits_exist_for_a_chunk_only(dtype):
    """Chunks of 4096 logits have 256 rows in float32, 512 in bfloat16; their gradients take no memory of their own."""
    N, V, C = 4096, 4096, 4
    x, weight = leaf(np.ones((N, C)), dtype), leaf(np.ones((V, C)), dtype)
    targets = ids(np.zeros(N))
    _core.reset_peak_memory("cpu")
    before = _core.memory_stats("cpu")["allocated"]
    F.linear_cross_entropy(x, weight, targets, fused_backward=True).backward()
    chunk = (256 if dtype == FLOAT32 else 512) * V * 4
    assert chunk <= _core.memory_stats("cpu")["peak_allocated"] - before < 1.4 * chunk


def test_a_large_vocabulary_takes_fewer_rows_at_a_time():
    N, V = 200, 1 << 17  # the logits of all rows: 100 MiB
    x, weight = _core.from_numpy(np.ones((N, 1))), _core.from_numpy(np.ones((V, 1)))
    _core.reset_peak_memory("cpu")
    before = _core.memory_stats("cpu")["allocated"]
    _core.linear_cross_entropy_per_token(x, weight, ids(np.zeros(N)).data)
    assert _core.memory_stats("cpu")["peak_allocated"] - before < 72 << 20


@pytest.mark.parametrize("fused", [False, True])
def test_only_the_gradients_that_are_wanted(fused, device):
    x, weight, targets = linear_case(FLOAT32)
    targets = ids(targets, device)
    both = leaf(x, device=device), leaf(weight, device=device)
    F.linear_cross_entropy(*both, targets, fused_backward=fused).backward()
    frozen = Tensor(_core.from_numpy(weight, None, device))
    tx = leaf(x, device=device)
    F.linear_cross_entropy(tx, frozen, targets, fused_backward=fused).backward()
    np.testing.assert_array_equal(tx.grad.numpy(), both[0].grad.numpy())
    tw = leaf(weight, device=device)
    F.linear_cross_entropy(Tensor(_core.from_numpy(x, None, device)), tw, targets, fused_backward=fused).backward()
    np.testing.assert_array_equal(tw.grad.numpy(), both[1].grad.numpy())
    with no_grad():
        tw = leaf(weight, device=device)
        F.linear_cross_entropy(leaf(x, device=device), tw, targets, fused_backward=fused)
    assert frozen.grad is None and tw.grad is None


@pytest.mark.small
def test_gradients_are_added_and_scaled(device):
    x, weight, targets = linear_case(FLOAT32)
    targets = ids(targets, device)
    once, thrice = leaf(weight, device=device), leaf(weight, device=device)
    F.linear_cross_entropy(leaf(x, device=device), once, targets).backward()
    (F.linear_cross_entropy(leaf(x, device=device), thrice, targets) * 2.0).backward()
    F.linear_cross_entropy(leaf(x, device=device), thrice, targets, fused_backward=True).backward()
    np.testing.assert_allclose(thrice.grad.numpy(), 3 * once.grad.numpy(), rtol=1e-5, atol=1e-7)

    logits, targets = random_array((5, 9), 3), ids([1, 2, 3, 4, 5], device)
    plain, scaled = leaf(logits, device=device), leaf(logits, device=device)
    F.cross_entropy(plain, targets).backward()
    (F.cross_entropy(scaled, targets) * 4.0).backward()
    np.testing.assert_allclose(scaled.grad.numpy(), 4 * plain.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("N", [0, 37])
def test_a_forgotten_gradient_is_overwritten(N, fused, device):
    """Neither kept nor made of zeros first: what the buffer held, here NaN, is not read."""
    x, weight, targets = linear_case(FLOAT32)
    fresh, reused = leaf(weight, device=device), leaf(weight, device=device)
    reused.grad_as_buffer().fill_(float("nan"))
    reused.forget_grad()
    for tw in (fresh, reused):
        F.linear_cross_entropy(
            leaf(x[:N], device=device), tw, ids(targets[:N], device), fused_backward=fused
        ).backward()
    np.testing.assert_array_equal(reused.grad.numpy(), fresh.grad.numpy())
    assert np.isfinite(fresh.grad.numpy()).all()


def test_a_fused_backward_refuses_other_gradients(device):
    x, weight, targets = linear_case(FLOAT32)
    tx, tw = leaf(x, device=device), leaf(weight, device=device)
    loss = F.linear_cross_entropy(tx, tw, ids(targets, device), fused_backward=True)
    with pytest.raises(RuntimeError, match="arrived with the gradient 2.0"):
        (loss * 2.0).backward()
    loss = F.linear_cross_entropy(tx, tw, ids(targets, device), fused_backward=True)
    (loss * 1.0).backward()  # the gradient is 1, though not the one that backward() began with
    loss = F.linear_cross_entropy(tx, tw, ids(targets, device), fused_backward=True)
    with pytest.raises(RuntimeError, match="arrived with the gradient 3.0"):
        loss.backward(_core.from_numpy(np.array(3.0), None, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_per_token(dtype, device):
    x, weight, targets = linear_case(dtype, 2048 + 5 if device == "cpu" else 37)
    tw = _core.from_numpy(weight, dtype, device)
    nll = _core.linear_cross_entropy_per_token(
        _core.from_numpy(x, dtype, device), tw, ids(targets, device).data, IGNORE
    )
    assert_close(nll, losses_of(x @ weight.T, targets), FLOAT32)
    batch = _core.linear_cross_entropy_per_token(
        _core.from_numpy(x[:6].reshape(2, 3, -1), dtype, device), tw, ids(targets[:6].reshape(2, 3), device).data
    )
    np.testing.assert_array_equal(batch.numpy(), nll.numpy()[:6].reshape(2, 3))


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_large_logits_neither_overflow_nor_vanish(shift, device):
    logits = random_array((4, 50), 1) + shift
    logits = logits.astype(np.float32).astype(np.float64)
    tensor = leaf(logits, device=device)
    loss = F.cross_entropy(tensor, ids([0, 10, 20, 49], device))
    np.testing.assert_allclose(loss.item(), reference(logits, np.array([0, 10, 20, 49])), atol=2e-3)
    loss.backward()
    np.testing.assert_allclose(tensor.grad.numpy().sum(-1), 0, atol=1e-3)


def test_logits_of_minus_infinity_have_no_weight(device):
    """Alone in a thread's part of the row, together with others, and in the threads that a short row leaves idle."""
    logits = random_array((3, 700), 1)
    logits[0, :699] = -np.inf
    logits[1, ::2] = -np.inf
    targets = np.array([699, 1, IGNORE])
    tensor = leaf(logits, device=device)
    loss = F.cross_entropy(tensor, ids(targets, device))
    loss.backward()
    assert loss.item() == pytest.approx(losses_of(logits, targets)[:2].sum() / 2, rel=1e-6)
    np.testing.assert_allclose(tensor.grad.numpy(), gradient_of_logits(logits, targets), atol=1e-7)


def test_nan_is_not_hidden(device):
    for place in (1, 600):
        logits = np.zeros((1, 700))
        logits[0, place] = np.nan
        tensor = leaf(logits, device=device)
        loss = F.cross_entropy(tensor, ids([0], device))
        loss.backward()
        assert np.isnan(loss.item()) and np.isnan(tensor.grad.numpy()).all()


def test_nothing_to_predict(device):
    logits = leaf(random_array((3, 5), 1), device=device)
    loss = F.cross_entropy(logits, ids([IGNORE] * 3, device))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.numpy().any()
    for fused in (False, True):
        x, weight = leaf(np.ones((0, 4)), device=device), leaf(np.ones((5, 4)), device=device)
        loss = F.linear_cross_entropy(x, weight, ids(np.zeros(0), device), fused_backward=fused)
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


def test_ids_outside_the_vocabulary_on_a_device(device):
    """A GPU says so when the host waits next; until then such rows have neither loss nor gradient."""
    if device == "cpu":  # there the op itself refuses them: test_ids_outside_the_vocabulary_are_refused
        return
    logits, targets = random_array((5, 7), 1), np.array([3, 7, -1, 2**31 - 1, -(2**31)])
    tensor, on_device = _core.from_numpy(logits, None, device), ids(targets, device).data
    options = _core.CrossEntropyOptions(IGNORE, 0.0, 1.0)
    loss, lse, scale = _core.cross_entropy_forward(tensor, on_device, options)
    with pytest.raises(IndexError, match="cross_entropy: targets has the id 7 at element 1.* for 7 ids"):
        loss.item()
    assert loss.item() == pytest.approx(losses_of(logits[:1], targets[:1])[0], rel=1e-6)
    one, eye = _core.from_numpy(np.array(1.0), None, device), _core.from_numpy(np.eye(7), None, device)
    gradients = [_core.cross_entropy_backward(one, tensor, lse, scale, on_device, options)]
    gradients.append(_core.linear_cross_entropy_fused(tensor, eye, on_device, None, True, options)[1])
    with pytest.raises(IndexError, match="cross_entropy_backward: targets has the id 7 at element 1"):
        _core.synchronize(device)
    expected = np.zeros((5, 7))
    expected[0] = gradient_of_logits(logits[:1], targets[:1])
    for gradient in gradients:
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-6)


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


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_same_bits_every_time(dtype, device):
    x, weight, targets = linear_case(dtype, 9, 1031, 16)
    results = []
    for _ in schedules(device):
        for fused in (False, True):
            tx, tw = leaf(x, dtype, device), leaf(weight, dtype, device)
            loss = F.linear_cross_entropy(tx, tw, ids(targets, device), label_smoothing=0.1, fused_backward=fused)
            loss.backward()
            results.append([loss.item(), tx.grad.numpy().copy(), tw.grad.numpy().copy()])
    for turn, other in enumerate(results[2:]):
        for a, b in zip(results[turn % 2], other, strict=True):
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
