from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcore import _core
from tests.cases import BFLOAT16, DTYPES, FLOAT32, ODD_SIZES, assert_close, poison_allocator, random_array

# Many steps of small float32 roundings: torch rounds at other places (addcdiv), so the last bits differ.
STEPS = 200


def tensors(*arrays: np.ndarray, device: str = "cpu") -> list[_core.Tensor]:
    return [_core.from_numpy(array.astype(np.float32), None, device) for array in arrays]


def zeros(n: int, device: str = "cpu") -> _core.Tensor:
    return _core.zeros((n,), device=device)


def run_against_torch(optimizer_class, options: dict, step_function, device: str, n: int = 37) -> None:
    """Trains the same numbers with torch and with `step_function(params, grads, step)`, and compares."""
    start = random_array((n,), 1)
    theirs = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    (ours,) = tensors(start, device=device)
    optimizer = optimizer_class([theirs], **options)
    for step in range(1, STEPS + 1):
        gradient = random_array((n,), 100 + step)
        theirs.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        step_function(ours, tensors(gradient, device=device)[0], step)
    assert_close(ours, theirs.detach().numpy(), FLOAT32)
    assert np.abs(ours.numpy() - start).max() > 0.05  # something was learned


@pytest.mark.parametrize("adam_l2", [False, True], ids=["decoupled", "l2"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95), (0.0, 0.0)])
def test_adamw_is_torchs(betas, weight_decay, adam_l2, device):
    m, v = zeros(37, device), zeros(37, device)

    def step_function(params, grads, step):
        _core.adamw_step(params, None, grads, m, v, 1e-2, *betas, 1e-8, weight_decay, step, None, adam_l2)

    options = dict(lr=1e-2, betas=betas, eps=1e-8, weight_decay=weight_decay)
    run_against_torch(torch.optim.Adam if adam_l2 else torch.optim.AdamW, options, step_function, device)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(weight_decay=0.1),
        dict(momentum=0.9),
        dict(momentum=0.9, dampening=0.5, weight_decay=0.1),
        dict(momentum=0.9, nesterov=True, weight_decay=0.1),
        dict(dampening=0.5),
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_sgd_is_torchs(options, device):
    buffer = _core.empty((37,), device=device)
    buffer.fill_(float("nan"))  # step 1 must not read it

    def step_function(params, grads, step):
        _core.sgd_step(
            *(params, None, grads, buffer, 1e-2, options.get("momentum", 0.0), options.get("dampening", 0.0)),
            *(options.get("nesterov", False), options.get("weight_decay", 0.0), step, None),
        )

    run_against_torch(torch.optim.SGD, dict(lr=1e-2, **options), step_function, device)


@pytest.mark.parametrize(
    "options",
    [dict(), dict(alpha=0.9), dict(momentum=0.9), dict(momentum=0.5, weight_decay=0.1), dict(eps=1e-2)],
    ids=lambda options: "-".join(options) or "plain",
)
def test_rmsprop_is_torchs(options, device):
    square_avg, buffer = zeros(37, device), zeros(37, device)

    def step_function(params, grads, step):
        _core.rmsprop_step(
            *(params, None, grads, square_avg, buffer, 1e-3, options.get("alpha", 0.99), options.get("eps", 1e-8)),
            *(options.get("momentum", 0.0), options.get("weight_decay", 0.0), step, None),
        )

    run_against_torch(torch.optim.RMSprop, dict(lr=1e-3, **options), step_function, device)


def adamw_reference(w, g, m, v, learning_rate, beta1, beta2, epsilon, weight_decay, step):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    corrected = m / (1 - beta1**step), v / (1 - beta2**step)
    return w * (1 - learning_rate * weight_decay) - learning_rate * corrected[0] / (np.sqrt(corrected[1]) + epsilon)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("n", [*ODD_SIZES, 40001])
def test_one_step_of_each_against_float64(n, dtype, device):
    w, g, m, v = (random_array((n,), seed) for seed in (1, 2, 3, 4))
    v = np.abs(v)
    poison_allocator(device)
    scale = _core.from_numpy(np.array([0.25]), None, device)

    def fresh() -> tuple[_core.Tensor, _core.Tensor]:
        return _core.from_numpy(w, dtype, device), _core.from_numpy(w, None, device)

    params, master = fresh()
    grads, tm, tv = tensors(g, m, v, device=device)
    _core.adamw_step(params, master, grads, tm, tv, 0.1, 0.9, 0.95, 1e-8, 0.1, 3, scale)
    expected = adamw_reference(w, g * 0.25, m, v, 0.1, 0.9, 0.95, 1e-8, 0.1, 3)
    assert_close(master, expected, FLOAT32)
    np.testing.assert_array_equal(params.numpy(), master.cast(dtype).numpy())
    assert_close(tm, 0.9 * m + 0.1 * 0.25 * g, FLOAT32)
    assert_close(tv, 0.95 * v + 0.05 * (0.25 * g) ** 2, FLOAT32)
    np.testing.assert_array_equal(grads.numpy(), g)

    params, master = fresh()
    grads, buffer = tensors(g, m, device=device)
    _core.sgd_step(params, master, grads, buffer, 0.1, 0.9, 0.0, True, 0.1, 2, scale)
    total = 0.25 * g + 0.1 * w
    new_buffer = 0.9 * m + total
    assert_close(master, w - 0.1 * (total + 0.9 * new_buffer), FLOAT32)
    np.testing.assert_array_equal(params.numpy(), master.cast(dtype).numpy())
    assert_close(buffer, new_buffer, FLOAT32)

    params, master = fresh()
    grads, square_avg, buffer = tensors(g, v, m, device=device)
    _core.rmsprop_step(params, master, grads, square_avg, buffer, 0.1, 0.9, 1e-8, 0.9, 0.0, 2, scale)
    new_square = 0.9 * v + 0.1 * (0.25 * g) ** 2
    assert_close(square_avg, new_square, FLOAT32)
    new_buffer = 0.9 * m + 0.25 * g / np.sqrt(new_square)
    assert_close(buffer, new_buffer, FLOAT32)
    assert_close(master, w - 0.1 * new_buffer, FLOAT32)
    np.testing.assert_array_equal(params.numpy(), master.cast(dtype).numpy())


def test_a_bf16_master_learns_what_bf16_alone_would_round_away():
    n = 64
    w = np.full(n, 1.0)
    params, master = _core.from_numpy(w, BFLOAT16), _core.from_numpy(w)
    grads, m, v = _core.from_numpy(np.ones(n)), zeros(n), zeros(n)
    for step in range(1, 101):  # each step is 1e-4, far below the 2^-8 between bf16 neighbours of 1
        _core.adamw_step(params, master, grads, m, v, 1e-4, 0.9, 0.999, 1e-8, 0.0, step, None)
    np.testing.assert_allclose(master.numpy(), 0.99, rtol=1e-5)
    np.testing.assert_array_equal(params.numpy(), np.float32(0.98828125))  # 0.99 in bf16


def rounded_by_chance(values: np.ndarray, seed: int, step: int) -> np.ndarray:
    """bfloat16 of float32 values: up if the 16 bits that are lost, plus 16 random ones, carry."""
    random = [_core.philox(seed, step, block) for block in range(-(-len(values) // 4))]
    words = np.array(random, np.uint32).reshape(-1)[: len(values)]
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + (words >> 16)) & 0xFFFF0000).astype(np.uint32)
    return np.where((bits & 0x7F800000) == 0x7F800000, bits, rounded).view(np.float32)


def each_step(params, grads, n: int, step: int, seed: int, device: str) -> None:
    """One step of each optimizer whose result is params - grads / 256 exactly; rmsprop divides by 1."""
    rate = 2.0**-8
    _core.sgd_step(params[0], None, grads, None, rate, 0.0, 0.0, False, 0.0, step, None, seed)
    _core.adamw_step(params[1], None, grads, *(zeros(n, device) for _ in "mv"), rate, 0.0, 0.0, 0.0, 0.0, step, None,
                     False, seed)  # fmt: skip
    _core.rmsprop_step(params[2], None, grads, zeros(n, device), None, rate, 0.0, 0.0, 0.0, 0.0, step, None, seed)


@pytest.mark.small
@pytest.mark.parametrize("n", [1, 37, 600, 2051])
def test_stochastic_rounding_takes_the_bits_of_its_elements(n, device):
    """The same bits on every device: the steps here are exact, so that only the rounding is left."""
    signs = np.sign(random_array((n,), 1))
    start = random_array((n,), 2, dtype=BFLOAT16) + 4 * np.sign(random_array((n,), 2))
    grads = _core.from_numpy(signs, None, device)
    seed, step = 2**40 + 5, 3
    params = [_core.from_numpy(start, BFLOAT16, device) for _ in range(3)]
    each_step(params, grads, n, step, seed, device)
    start = _core.from_numpy(start, BFLOAT16).numpy()
    expected = rounded_by_chance(start - signs / 256, seed, step)
    for ours in params:
        np.testing.assert_array_equal(ours.numpy(), expected)
    if n > 100:
        nearest = _core.from_numpy(start - signs / 256, BFLOAT16).numpy()
        assert 0.1 < (expected != nearest).mean() < 0.6
        again = _core.from_numpy(start, BFLOAT16, device)
        _core.sgd_step(again, None, grads, None, 2.0**-8, 0.0, 0.0, False, 0.0, step + 1, None, seed)
        assert (again.numpy() != expected).any()


@pytest.mark.small
def test_stochastic_rounding_is_right_in_the_mean(device):
    n = 4096
    for exact in (1 + 2.0**-9, 1 + 2.0**-12, -(1 + 3 * 2.0**-9), 2 - 2.0**-10, 1e-30):  # 2^-7 between neighbours of 1
        params, grads = (
            _core.from_numpy(np.zeros(n), BFLOAT16, device),
            _core.from_numpy(np.full(n, -exact), None, device),
        )
        _core.sgd_step(params, None, grads, None, 1.0, 0.0, 0.0, False, 0.0, 1, None, 11)
        values = params.numpy().astype(np.float64)
        low, high = values.min(), values.max()
        distance = 2.0 ** (np.floor(np.log2(abs(exact))) - 7)
        assert set(values) == {low, high} and high - low == pytest.approx(distance) and low <= exact <= high
        chance = (exact - low) / (high - low)
        assert abs(values.mean() - exact) < 5 * distance * np.sqrt(chance * (1 - chance) / n)


def test_stochastic_rounding_in_a_replayed_graph_is_shifted(device):
    if device == "cpu":  # nothing is replayed there
        return
    start, grads = np.full(100, 4.0), _core.from_numpy(np.ones(100), None, device)
    for shift in (3 << 20, 0):
        params = _core.from_numpy(start, BFLOAT16, device)
        _core.set_random_shift(shift, device)
        _core.sgd_step(params, None, grads, None, 2.0**-8, 0.0, 0.0, False, 0.0, 2, None, 5)
        np.testing.assert_array_equal(params.numpy(), rounded_by_chance(start - 2.0**-8, 5, 2 + shift))


def test_stochastic_rounding_leaves_what_needs_none(device):
    values = np.array([1.0, -0.5, np.inf, -np.inf, np.nan, 0.0, 3.0, 2.0**100])
    params, grads = _core.from_numpy(np.zeros(8), BFLOAT16, device), _core.from_numpy(-values, None, device)
    _core.sgd_step(params, None, grads, None, 1.0, 0.0, 0.0, False, 0.0, 1, None, 5)
    np.testing.assert_array_equal(params.numpy(), values.astype(np.float32))


@pytest.mark.small
def test_no_elements_and_any_shape(device):
    empty = [zeros(0, device) for _ in range(4)]
    _core.adamw_step(empty[0], None, *empty[1:], 0.1, 0.9, 0.95, 1e-8, 0.1, 1, None)
    w = random_array((3, 5), 1)
    params, grads = tensors(w, np.ones((3, 5)), device=device)
    _core.sgd_step(params, None, grads, None, 0.5, 0.0, 0.0, False, 0.0, 1, None)
    assert_close(params, w - 0.5, FLOAT32)


def test_wrong_arguments_are_refused():
    w, g, m, v = tensors(*[np.ones(4)] * 4)
    half = _core.zeros((4,), BFLOAT16)

    def adamw(params=w, master=None, grads=g, first=m, beta1=0.9, step=1, grad_scale=None, rounding_seed=None):
        arguments = (params, master, grads, first, v, 0.1, beta1, 0.95, 1e-8, 0.1, step, grad_scale)
        _core.adamw_step(*arguments, rounding_seed=rounding_seed)

    with pytest.raises(ValueError, match="adamw_step: bfloat16 params need a float32 master or a rounding_seed"):
        adamw(params=half)
    with pytest.raises(ValueError, match="rounding_seed is for bfloat16 params without a master, got float32 params$"):
        adamw(rounding_seed=1)
    with pytest.raises(ValueError, match="without a master, got bfloat16 params with one"):
        adamw(params=half, master=w, rounding_seed=1)
    with pytest.raises(ValueError, match="adamw_step: master must be float32, got bfloat16"):
        adamw(params=half, master=half)
    with pytest.raises(ValueError, match=r"adamw_step: m must have shape \(4\), got \(5\)"):
        adamw(first=zeros(5))
    with pytest.raises(ValueError, match=r"adamw_step: grads must be float32, got bfloat16"):
        adamw(grads=half)
    with pytest.raises(ValueError, match="adamw_step: step counts from 1, got 0"):
        adamw(step=0)
    with pytest.raises(ValueError, match="adamw_step: beta1 must be at least 0 and below 1, got 1"):
        adamw(beta1=1.0)
    with pytest.raises(ValueError, match=r"adamw_step: grad_scale must have shape \(1\), got \(2\)"):
        adamw(grad_scale=zeros(2))
    with pytest.raises(ValueError, match="sgd_step: momentum 0.9 needs a momentum_buffer"):
        _core.sgd_step(w, None, g, None, 0.1, 0.9, 0.0, False, 0.0, 1, None)
    with pytest.raises(ValueError, match="sgd_step: nesterov needs momentum above 0 and dampening 0"):
        _core.sgd_step(w, None, g, m, 0.1, 0.9, 0.5, True, 0.0, 1, None)
    with pytest.raises(ValueError, match="rmsprop_step: momentum 0.5 needs a momentum_buffer"):
        _core.rmsprop_step(w, None, g, v, None, 0.1, 0.99, 1e-8, 0.5, 0.0, 1, None)


def test_same_bits_for_any_number_of_threads():
    n = 70001
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        w, g, m, v = tensors(*(random_array((n,), seed) for seed in (1, 2, 3, 4)))
        v.copy_(_core.from_numpy(np.abs(v.numpy())))
        for step in (1, 2):
            _core.adamw_step(w, None, g, m, v, 0.1, 0.9, 0.95, 1e-8, 0.1, step, None)
            _core.sgd_step(w, None, g, m, 0.1, 0.9, 0.0, True, 0.1, step, None)
            _core.rmsprop_step(w, None, g, v, m, 0.1, 0.99, 1e-8, 0.9, 0.1, step, None)
        half = _core.from_numpy(random_array((n,), 5), BFLOAT16)
        _core.sgd_step(half, None, g, None, 0.1, 0.0, 0.0, False, 0.1, 1, None, 9)
        results.append([t.numpy().copy() for t in (w, m, v, half)])
    _core.set_num_threads(0)
    assert np.isfinite(results[0][0]).all()
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
