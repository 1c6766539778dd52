"""The tape: graph shapes, accumulation, what is freed when, what is refused. For gradients of ops see tests/kernels."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Function, Generator, Tensor, checkpoint, is_grad_enabled, no_grad, tensor
from tests.cases import BFLOAT16, FLOAT32, assert_close, leaf, random_array

MIB = 1 << 20


def values(tensor: _core.Tensor | None) -> list[float]:
    assert tensor is not None
    return tensor.numpy().tolist()


# ---------------------------------------------------------------------------------------- graph shapes


def test_a_value_used_more_than_once():
    x = leaf(np.array([2.0, -3.0]))
    square = x * x  # one input twice
    y = square * x + square - x  # and a diamond
    F.sum(y).backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * x.numpy() ** 2 + 2 * x.numpy() - 1)


def test_a_node_runs_once_all_its_outputs_gradients_are_there():
    """The long way round reaches `shared` late; it must not run before."""
    calls = []

    class Counted(Function):
        @staticmethod
        def forward(ctx, x):
            return _core.scale(x, 2.0)

        @staticmethod
        def backward(ctx, dy):
            calls.append(values(dy))
            return _core.scale(dy, 2.0)

    x = leaf(np.array([1.0]))
    shared = Counted.apply(x)
    long = shared
    for _ in range(10):
        long = long + 1.0
    F.sum(shared * 3.0 + long).backward()
    assert calls == [[4.0]]
    assert values(x.grad) == [8.0]


def test_several_outputs_and_unused_ones():
    x = leaf(np.arange(6.0))
    a, b, c = F.split(x, [1, 2, 3], 0)
    (F.sum(a) + F.sum(c * c)).backward()  # b leads nowhere: zeros
    assert values(x.grad) == [1, 0, 0, 6, 8, 10]

    class Two(Function):
        undefined_gradients = True

        @staticmethod
        def forward(ctx, x):
            return _core.scale(x, 1.0), _core.scale(x, 2.0)

        @staticmethod
        def backward(ctx, da, db):
            assert da is None and db is not None
            return _core.scale(db, 2.0)

    x = leaf(np.ones(2))
    F.sum(Two.apply(x)[1]).backward()
    assert values(x.grad) == [2, 2]


def test_a_chain_of_twenty_thousand_nodes():
    x = leaf(np.array([1.0]))
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.backward()
    assert values(x.grad) == [1.0] and y.item() == 20_001.0
    z = x
    for _ in range(20_000):
        z = z * 1.0
    del z, y  # freed without a backward pass, and without deep recursion


def test_parts_built_in_other_threads_join():
    a, b = leaf(np.array([1.0])), leaf(np.array([1.0]))
    parts = {}

    def build(name: str, source: Tensor, factor: float) -> None:
        parts[name] = source * factor

    for name, source, factor in [("a", a, 2.0), ("b", b, 3.0)]:
        thread = threading.Thread(target=build, args=(name, source, factor))
        thread.start()
        thread.join()
    (parts["a"] * parts["b"]).backward()
    assert values(a.grad) == [6.0] and values(b.grad) == [6.0]


def test_inputs_that_need_no_gradient():
    x, constant = leaf(np.ones(2)), tensor(np.full(2, 3.0))
    y = F.mul(x, constant)
    assert y.requires_grad and not (constant * constant).requires_grad
    F.sum(y).backward()
    assert values(x.grad) == [3, 3] and constant.grad is None
    F.sum(y.detach() * x).backward()  # nothing flows through detach()
    assert values(x.grad) == [6, 6]


# ---------------------------------------------------------------------------------------- accumulation


def test_gradients_add_up_over_backward_passes():
    x = leaf(np.array([1.0, 2.0]))
    for _ in range(2):
        F.sum(x * x).backward()
    assert values(x.grad) == [4.0, 8.0]
    x.grad = None
    F.sum(x).backward()
    assert values(x.grad) == [1.0, 1.0]


def test_a_forgotten_gradient_is_overwritten_by_every_kind_of_kernel():
    """By a product, which can write instead of adding; by one that only adds; by a gradient that is passed on."""
    x, weight, bias, unused = (leaf(random_array(shape, 1)) for shape in ((5, 3), (4, 3), (4,), (4,)))
    table = leaf(random_array((1, 4), 2))

    def gradients() -> list[np.ndarray]:
        F.sum(F.mul(F.linear(x, weight, bias), F.embedding(_core.from_numpy(np.arange(5) * 0), table))).backward()
        return [tensor.grad.numpy().copy() for tensor in (x, weight, bias, table)]

    first = gradients()
    for tensor_ in (x, weight, bias, table):
        assert np.abs(tensor_.grad.numpy()).max() > 0
        tensor_.grad.fill_(float("nan"))
        tensor_.forget_grad()
    for before, after in zip(first, gradients(), strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(first, gradients(), strict=True):  # not forgotten: added
        np.testing.assert_allclose(2 * before, after, rtol=1e-6)
    weight.forget_grad()
    np.testing.assert_array_equal(weight.grad.numpy(), np.zeros((4, 3)))
    unused.forget_grad()
    assert unused.grad is None  # there was none


def test_micro_batches_add_up_in_float32_though_the_leaf_is_bfloat16():
    x = leaf(np.ones(4), BFLOAT16)
    F.sum(x).backward()
    gradient = _core.from_numpy(np.full(4, 2.0**-9), BFLOAT16)
    F.scale(x, 1.0).backward(gradient)  # 1 + 2^-9 is no bfloat16
    assert x.grad.dtype == FLOAT32
    assert values(x.grad) == [1 + 2.0**-9] * 4


def test_the_gradient_of_a_leaf_is_its_own():
    """A gradient that is handed through (dy, dy) must not be the buffer that is added into."""
    a, b = leaf(np.ones(2)), leaf(np.ones(2))
    given = _core.from_numpy(np.array([1.0, 2.0]))
    (a + b).backward(given)
    (a + a).backward(given)
    assert values(given) == [1, 2] and values(b.grad) == [1, 2] and values(a.grad) == [3, 6]
    a.grad.fill_(0.0)
    assert values(b.grad) == [1, 2]


def test_backward_of_a_leaf():
    x = leaf(np.ones(2))
    x.backward(_core.from_numpy(np.array([3.0, 4.0])))
    assert values(x.grad) == [3, 4]


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=lambda d: d.name)
def test_a_parameter_gradient_that_is_not_a_leafs(dtype):
    """A computed weight gets a buffer of its own in float32, which flows on in the weight's type."""
    x, base = random_array((5, 8), 1, dtype=dtype), random_array((8,), 2, dtype=dtype)
    dy = _core.from_numpy(random_array((5, 8), 3, dtype=dtype), dtype)
    plain = leaf(2 * base, dtype)
    F.rmsnorm(leaf(x, dtype), plain).backward(dy)
    source = leaf(base, dtype)
    F.rmsnorm(leaf(x, dtype), F.scale(source, 2.0)).backward(dy)
    assert_close(source.grad, 2 * plain.grad.numpy(), dtype)

    tied = leaf(2 * base, dtype)  # one weight in two places
    F.rmsnorm(F.rmsnorm(leaf(x, dtype), tied), tied).backward(dy)
    apart = leaf(2 * base, dtype), leaf(2 * base, dtype)
    F.rmsnorm(F.rmsnorm(leaf(x, dtype), apart[0]), apart[1]).backward(dy)
    assert_close(tied.grad, apart[0].grad.numpy() + apart[1].grad.numpy(), FLOAT32)


# ---------------------------------------------------------------------------------- what is refused


def test_a_second_backward_is_refused():
    x = leaf(np.ones(2))
    y = F.sum(x * x)
    y.backward()
    with pytest.raises(RuntimeError, match="this graph was run before and its saved values are freed; compute"):
        y.backward()


def test_a_shared_part_that_was_run_is_refused():
    x = leaf(np.ones(2))
    shared = x * x
    F.sum(shared).backward()
    with pytest.raises(RuntimeError, match="this graph was run before"):
        F.sum(shared * 2.0).backward()


def test_backward_of_what_was_not_recorded_is_refused():
    with pytest.raises(RuntimeError, match="was not computed from anything that requires a gradient"):
        F.sum(tensor(np.ones(2))).backward()
    with pytest.raises(ValueError, match=r"a tensor of shape \(2,\) needs a gradient; only a scalar"):
        (leaf(np.ones(2)) * 2.0).backward()


# ------------------------------------------------------------------------------------------- no_grad


def test_no_grad_records_nothing_in_this_thread_only():
    x = leaf(np.ones(2))
    elsewhere = []
    with no_grad():
        assert not is_grad_enabled()
        assert not (x * x).requires_grad
        thread = threading.Thread(target=lambda: elsewhere.append((is_grad_enabled(), (x * x).requires_grad)))
        thread.start()
        thread.join()
        with no_grad():
            pass
        assert not is_grad_enabled()
    assert is_grad_enabled() and (x * x).requires_grad
    assert elsewhere == [(True, True)]
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_grad_enabled()


# ---------------------------------------------------------------------------------------- checkpoint


def run_block(use_checkpoint: bool, p: float) -> list[np.ndarray]:
    x, weight, scale = leaf(random_array((6, 16), 1)), leaf(random_array((16, 16), 2)), leaf(random_array((6, 16), 3))
    generator = Generator(5)
    generator.step = 7

    def block(x: Tensor, scale: Tensor) -> Tensor:
        hidden = F.dropout(F.gelu(F.linear(x, weight)), p, generator)  # weight arrives through the closure
        return F.dropout(hidden, p, generator) * scale

    y = x
    for _ in range(2):
        y = checkpoint(block, y, scale, generator=generator) if use_checkpoint else block(y, scale)
    after = generator.next_offset()
    F.mean(y * y).backward()
    assert generator.next_offset() == after + 1  # the recomputation leaves the counter where it was
    return [y.numpy(), x.grad.numpy(), weight.grad.numpy(), scale.grad.numpy()]


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_checkpoint_is_the_same_bit_by_bit(p):
    for plain, again in zip(run_block(False, p), run_block(True, p), strict=True):
        np.testing.assert_array_equal(plain, again)
        assert np.abs(plain).max() > 0


def test_checkpoint_keeps_only_its_inputs():
    def block(x: Tensor) -> Tensor:
        for _ in range(8):
            x = F.gelu(x)
        return x

    held = {}
    for name, run in {"plain": block, "checkpoint": lambda x: checkpoint(block, x)}.items():
        x = leaf(np.zeros(MIB // 4))
        gc.collect()
        start = _core.memory_stats()["allocated"]
        y = run(x)
        held[name] = _core.memory_stats()["allocated"] - start
        del y
    assert held == {"plain": 8 * MIB, "checkpoint": MIB}


# -------------------------------------------------------------------------------------------- memory


def test_saved_values_are_freed_as_the_nodes_run():
    gc.collect()
    gc.disable()  # by reference count alone: no cycles
    try:
        start = _core.memory_stats()["allocated"]
        x = leaf(np.ones(MIB // 4))
        y = x
        for _ in range(16):
            y = F.gelu(y)
        loss = F.sum(y)
        del y
        before = _core.memory_stats()["allocated"]
        assert start + 16 * MIB < before < start + 17 * MIB  # x and 15 results: the sum does not need the last one
        _core.reset_peak_memory("cpu")
        loss.backward()
        after = _core.memory_stats()
        assert after["peak_allocated"] <= before + 3 * MIB  # one gradient in, one out, one of the leaf
        assert after["allocated"] <= start + 2 * MIB + 64  # x, its gradient and the loss
        del loss, x
        assert _core.memory_stats()["allocated"] == start
    finally:
        gc.enable()


def test_an_input_that_is_not_saved_is_freed_at_once():
    """Only what backward needs lives on: of a sum and an addition nothing but shapes."""
    x = leaf(np.ones(MIB // 4))
    start = _core.memory_stats()["allocated"]
    loss = F.sum(F.add(F.scale(x, 2.0), F.scale(x, 3.0)))
    assert _core.memory_stats()["allocated"] < start + MIB // 2
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(MIB // 4, 5.0, np.float32))


def test_a_graph_that_is_dropped_frees_everything():
    gc.collect()
    gc.disable()
    try:
        start = _core.memory_stats()["allocated"]
        x = leaf(np.ones((4, 64)))
        a, b = F.residual_rmsnorm(x, x * 2.0, leaf(np.ones(64)))
        loss = F.mse_loss(F.concat(F.split(a, [32, 32], 1), 0), F.view(b, (8, 32)))
        assert _core.memory_stats()["allocated"] > start
        del x, a, b, loss
        assert _core.memory_stats()["allocated"] == start
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------- others


def test_tensors_from_lists_and_back():
    x = tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert x.shape == (2, 2) and x.dtype == FLOAT32 and x.device == "cpu" and x.is_leaf
    assert tensor([1, 2]).dtype == _core.DType.int32
    np.testing.assert_array_equal(np.asarray(x), x.numpy())
    np.testing.assert_array_equal(np.asarray(x, dtype=np.float64), x.numpy())
    assert F.sum(x).item() == 10.0 and not x.detach().requires_grad and not (x * 1.0).is_leaf
    assert "requires_grad=True" in repr(x) and "float32" in repr(x)


def test_the_generator_is_a_counter():
    generator = Generator(3)
    assert [generator.next_offset() for _ in range(3)] == [0, 1, 2]
    generator.step = 5
    assert generator.step == 5 and generator.next_offset() == 5 << 20
    state = generator.state()
    following = [generator.next_offset() for _ in range(2)]
    other = Generator(0)
    other.set_state(state)
    assert other.seed == 3 and [other.next_offset() for _ in range(2)] == following
