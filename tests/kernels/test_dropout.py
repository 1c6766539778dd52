from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Generator, checkpoint
from tests.cases import DTYPES, FLOAT32, assert_close, check_gradient, leaf, poison_allocator, random_array
from tests.kernels.philox import keep_mask

SEED = 0xFEDCBA9876543210


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (511,), (513,), (7, 8191)])
def test_dropout_draws_the_philox_mask(shape, p, dtype, device):
    x, dy = random_array(shape, 1, dtype=dtype), random_array(shape, 2, dtype=dtype)
    tx, generator = leaf(x, dtype, device), Generator(SEED)
    generator.step = 5
    kept = keep_mask(SEED, 5 << 20, x.size, p).reshape(shape)
    poison_allocator(device)
    y = F.dropout(tx, p, generator)
    np.testing.assert_array_equal(y.numpy() != 0, kept)
    assert_close(y, x * kept / (1 - p), dtype, scale=1 / (1 - p))
    y.backward(_core.from_numpy(dy, dtype, device))
    assert_close(tx.grad, dy * kept / (1 - p), dtype, scale=1 / (1 - p))


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_residual_dropout(dtype, device):
    x, residual, dy = (random_array((13, 37), seed, dtype=dtype) for seed in range(3))
    tx, tr, generator = leaf(x, dtype, device), leaf(residual, dtype, device), Generator(SEED)
    kept = keep_mask(SEED, 0, x.size, 0.25).reshape(x.shape)
    poison_allocator(device)
    y = F.residual_dropout(tx, tr, 0.25, generator)
    assert_close(y, residual + x * kept / 0.75, dtype)
    y.backward(_core.from_numpy(dy, dtype, device))
    assert_close(tx.grad, dy * kept / 0.75, dtype)
    np.testing.assert_array_equal(tr.grad.numpy(), dy)
    if dtype == FLOAT32:
        check_gradient(tx.grad, lambda v: ((residual + v * kept / 0.75) * dy).sum(), x, dtype)


def test_a_replayed_graph_draws_the_masks_of_its_own_step(device):
    """What kernels add to their offsets, and set to 0 again: the masks are the CPU's either way."""
    if device == "cpu":
        with pytest.raises(ValueError, match="set_random_shift: only graphs of a CUDA device are replayed, .* cpu"):
            _core.set_random_shift(1, device)
        return
    x = leaf(np.ones(1000), FLOAT32, device)
    for offset, shift in [(3 << 20, 2 << 20), (3 << 20, 2**64 - (1 << 20)), (7, 0)]:
        _core.set_random_shift(shift, device)
        y = _core.dropout(x.data, None, 0.5, SEED, offset)
        np.testing.assert_array_equal(y.numpy() != 0, keep_mask(SEED, (offset + shift) % 2**64, 1000, 0.5))


def test_masks_have_the_right_frequency_and_differ_from_op_to_op():
    generator, x, n = Generator(1), leaf(np.ones(1 << 20)), 1 << 20
    first, second = (F.dropout(x, 0.3, generator).numpy() != 0 for _ in range(2))
    deviation = np.sqrt(n * 0.3 * 0.7)  # of the number kept; six of them never happen
    assert abs(first.sum() - 0.7 * n) < 6 * deviation and abs(second.sum() - 0.7 * n) < 6 * deviation
    together = (first & second).sum()  # independent: 0.49 n
    assert abs(together - 0.49 * n) < 6 * np.sqrt(n * 0.49 * 0.51)
    neighbours = (first[:-1] & first[1:]).sum()
    assert abs(neighbours - 0.49 * n) < 10 * np.sqrt(n * 0.49 * 0.51)


def test_the_step_decides_the_mask():
    x, generator = leaf(np.ones(1000)), Generator(1)
    masks = []
    for step in (3, 4, 3):
        generator.step = step
        masks.append(F.dropout(x, 0.5, generator).numpy().copy())
    np.testing.assert_array_equal(masks[0], masks[2])
    assert (masks[0] != masks[1]).any()


def test_checkpointing_draws_the_same_mask_again():
    x, y = leaf(random_array((100,))), leaf(random_array((100,)))
    ones = _core.from_numpy(np.ones(100))
    F.dropout(x, 0.5, Generator(3)).backward(ones)
    generator = Generator(3)
    checkpoint(lambda t: F.dropout(t, 0.5, generator), y, generator=generator).backward(ones)
    np.testing.assert_array_equal(x.grad.numpy(), y.grad.numpy())


def test_nothing_happens_without_a_generator_or_with_p_zero():
    x, residual = leaf(random_array((9,))), leaf(random_array((9,), 1))
    assert F.dropout(x, 0.5, None) is x and F.dropout(x, 0.0, Generator(0)) is x
    expected = (x.numpy() + residual.numpy()).copy()
    np.testing.assert_array_equal(F.residual_dropout(x, residual, 0.5, None).numpy(), expected)
    np.testing.assert_array_equal(F.residual_dropout(x, residual, 0.0, Generator(0)).numpy(), expected)


def test_empty_input_and_wrong_input():
    assert F.dropout(leaf(np.ones((0, 3))), 0.5, Generator(0)).shape == (0, 3)
    with pytest.raises(ValueError, match="dropout: p must be at least 0 and below 1, got 1"):
        F.dropout(leaf(np.ones(3)), 1.0, Generator(0))
    with pytest.raises(ValueError, match="dropout: p must be at least 0 and below 1, got -0.5"):
        F.dropout(leaf(np.ones(3)), -0.5, Generator(0))
    with pytest.raises(ValueError, match=r"dropout: residual must have shape \(3\), got \(4\)"):
        F.residual_dropout(leaf(np.ones(3)), leaf(np.ones(4)), 0.5, Generator(0))


def test_same_bits_for_any_number_of_threads():
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        results.append(F.dropout(leaf(random_array((100_003,))), 0.2, Generator(9)).numpy().copy())
    _core.set_num_threads(0)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
