from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor
from tests.cases import (
    BFLOAT16,
    DTYPES,
    FLOAT32,
    TOLERANCE,
    assert_close,
    check_gradient,
    leaf,
    poison_allocator,
    random_array,
)
from tests.devices import schedules
from tests.kernels.philox import keep_mask


@dataclass
class Case:
    """Sizes and options of one call, and its float64 reference."""

    B: int = 2
    NH: int = 2
    NKV: int = 2
    Tq: int = 5
    Tk: int = 5
    HS: int = 8
    causal: bool = False
    lengths: list[int] | None = None
    starts: list[int] | None = None
    scale: float | None = None
    causal_to_length: bool = False
    keep: np.ndarray | None = None  # (B, NH, Tq, Tk), the factors of dropout

    def inputs(self, dtype: _core.DType) -> tuple[np.ndarray, ...]:
        """q, k, v, dout"""
        shapes = [(self.Tq, self.NH), (self.Tk, self.NKV), (self.Tk, self.NKV), (self.Tq, self.NH)]
        return tuple(random_array((self.B, T, n * self.HS), seed, dtype=dtype) for seed, (T, n) in enumerate(shapes))

    def visible(self) -> np.ndarray:
        """(B, 1, Tq, Tk): which keys each query sees."""
        i, j = np.arange(self.Tq)[:, None], np.arange(self.Tk)[None, :]
        lengths = np.asarray(self.lengths if self.lengths is not None else [self.Tk] * self.B)[:, None, None]
        starts = np.asarray(self.starts if self.starts is not None else [0] * self.B)[:, None, None]
        seen = (j < lengths) & (j >= starts) & (i >= 0)
        if self.causal:
            seen &= j <= i + (lengths if self.causal_to_length else self.Tk) - self.Tq
        return np.broadcast_to(seen, (self.B, self.Tq, self.Tk))[:, None]

    def heads(self, x: np.ndarray) -> np.ndarray:
        """(B, T, n*HS) -> (B, NH, T, HS), key/value heads repeated"""
        x = x.reshape(*x.shape[:2], x.shape[2] // self.HS, self.HS).transpose(0, 2, 1, 3)
        return np.repeat(x, self.NH // x.shape[1], axis=1)

    def merge(self, x: np.ndarray, n: int) -> np.ndarray:
        """(B, NH, T, HS) -> (B, T, n*HS), adding up the heads that share one"""
        B, NH, T, HS = x.shape
        return x.reshape(B, n, NH // n, T, HS).sum(2).transpose(0, 2, 1, 3).reshape(B, T, n * HS)

    def probabilities(self, q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, NH, Tq, Tk) and its log-sum-exp (B, NH, Tq)"""
        scale = 1 / np.sqrt(self.HS) if self.scale is None else self.scale
        scores = np.where(self.visible(), scale * self.heads(q) @ self.heads(k).swapaxes(2, 3), -np.inf)
        with np.errstate(divide="ignore"):
            largest = scores.max(-1, initial=-1e300)
            lse = np.log(np.exp(scores - largest[..., None]).sum(-1)) + np.where(largest > -1e300, largest, 0)
        return np.where(self.visible(), np.exp(scores - np.where(np.isfinite(lse), lse, 0)[..., None]), 0), lse

    def forward(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        P, _ = self.probabilities(q, k)
        return self.merge((P if self.keep is None else P * self.keep) @ self.heads(v), self.NH)

    def backward(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, dout: np.ndarray) -> tuple[np.ndarray, ...]:
        """dq, dk, dv"""
        scale = 1 / np.sqrt(self.HS) if self.scale is None else self.scale
        P, _ = self.probabilities(q, k)
        keep = 1.0 if self.keep is None else self.keep
        dP = (self.heads(dout) @ self.heads(v).swapaxes(2, 3)) * keep
        dS = P * (dP - (P * dP).sum(-1, keepdims=True)) * scale
        dq, dk = dS @ self.heads(k), dS.swapaxes(2, 3) @ self.heads(q)
        dv = (P * keep).swapaxes(2, 3) @ self.heads(dout)
        return self.merge(dq, self.NH), self.merge(dk, self.NKV), self.merge(dv, self.NKV)

    def run(self, q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
        return F.attention(
            q, k, v, self.NH, self.NKV, self.causal, int_tensor(self.lengths, q.device), self.scale, **options
        )  # fmt: skip


def int_tensor(values: list[int] | None, device: str = "cpu") -> _core.Tensor | None:
    return None if values is None else _core.from_numpy(np.asarray(values, dtype=np.int32), device=device)


def check(case: Case, dtype: _core.DType, device: str = "cpu", **options) -> None:
    """Forward and backward against the reference, with fresh memory poisoned."""
    q, k, v, dout = case.inputs(dtype)
    tensors = [leaf(x, dtype, device) for x in (q, k, v)]
    poison_allocator(device)
    out = case.run(*tensors, **options)
    assert out.device.startswith(device)
    assert_close(out, case.forward(q, k, v), dtype)
    poison_allocator(device)
    out.backward(_core.from_numpy(dout, dtype, device))
    for tensor, expected in zip(tensors, case.backward(q, k, v, dout), strict=True):
        assert_close(tensor.grad, expected, dtype, scale=max(1.0, np.abs(expected).max(initial=0)))


# What kernels for GPUs tell apart: widths of heads (32, 64, 96, 128, 256 in bf16; 64, 128, 256 in float), rows that are
# whole vectors or not, tiles of 64 and of 128 that are full, cut off by the diagonal, by a length or by the last row.
TELLING = {
    "narrow": Case(B=1, NH=1, NKV=1, Tq=40, Tk=70, HS=32, causal=True),
    "three-tiles": Case(B=1, NH=1, NKV=1, Tq=150, Tk=150, HS=64, causal=True),
    "grouped": Case(NH=2, NKV=1, Tq=5, Tk=70, HS=64, causal=True, lengths=[70, 33]),
    "80-columns": Case(B=1, NH=1, NKV=1, Tq=70, Tk=40, HS=80, causal=True),
    "128-columns": Case(B=1, NH=1, NKV=1, Tq=70, Tk=70, HS=128, causal=True),
    "256-columns": Case(B=1, NH=1, NKV=1, Tq=37, Tk=70, HS=256, lengths=[65]),
    "odd-rows": Case(Tq=20, Tk=37, HS=33, lengths=[0, 20]),
    "negative-scale": Case(B=1, NH=1, NKV=1, Tq=9, Tk=70, HS=4, causal=True, scale=-0.3),
    "scale-zero": Case(B=1, NH=1, NKV=1, Tq=3, Tk=5, HS=8, causal=True, scale=0.0),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("name", TELLING)
def test_telling_sizes(name, dtype, device):
    check(TELLING[name], dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("HS", [1, 3, 16, 31, 33, 64, 80, 256])
def test_head_sizes(HS, causal, dtype):
    check(Case(Tq=37, Tk=37, HS=HS, causal=causal), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("T", [1, 2, 15, 17, 63, 64, 65, 129, 200])
def test_lengths_of_sequences(T, causal, dtype):
    check(Case(B=1, Tq=T, Tk=T, HS=20, causal=causal), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("Tq, Tk", [(1, 70), (70, 1), (33, 129), (129, 33), (65, 64), (64, 65), (5, 200), (200, 5)])
def test_cross_attention(Tq, Tk, causal, dtype):
    """With causal and Tq > Tk the first queries see nothing."""
    check(Case(Tq=Tq, Tk=Tk, HS=12, causal=causal), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("NH, NKV", [(6, 1), (6, 2), (6, 3), (4, 4)])
def test_grouped_heads(NH, NKV, dtype):
    check(Case(NH=NH, NKV=NKV, Tq=70, Tk=70, HS=9, causal=True), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("causal", [False, True])
def test_padded_keys(causal, dtype):
    check(Case(B=5, Tq=70, Tk=70, causal=causal, lengths=[70, 1, 0, 64, 33]), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("scale", [0.7, -0.3])
def test_given_scale(scale, dtype):
    check(Case(Tq=20, Tk=20, scale=scale, causal=True), dtype)


@pytest.mark.parametrize(
    "case", [Case(causal=True), Case(Tq=4, Tk=7, NH=4, NKV=2, lengths=[7, 3])], ids=["causal", "padded"]
)
def test_gradients_are_the_slopes(case):
    q, k, v, dout = case.inputs(FLOAT32)
    tensors = [leaf(x) for x in (q, k, v)]
    case.run(*tensors).backward(_core.from_numpy(dout))
    check_gradient(tensors[0].grad, lambda x: (case.forward(x, k, v) * dout).sum(), q, FLOAT32)
    check_gradient(tensors[1].grad, lambda x: (case.forward(q, x, v) * dout).sum(), k, FLOAT32)
    check_gradient(tensors[2].grad, lambda x: (case.forward(q, k, x) * dout).sum(), v, FLOAT32)


@pytest.mark.small
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_queries_without_keys_are_zero_and_lse_is_minus_infinity(dtype, device):
    case = Case(B=2, Tq=6, Tk=4, causal=True, lengths=[4, 0])
    q, k, v, dout = case.inputs(dtype)
    tensors = [leaf(x, dtype, device) for x in (q, k, v)]
    out = case.run(*tensors)
    assert not out.numpy()[1].any() and not out.numpy()[0, :2].any() and out.numpy()[0, 2:].all()
    out.backward(_core.from_numpy(dout, dtype, device))
    assert all(np.isfinite(t.grad.numpy()).all() and not t.grad.numpy()[1].any() for t in tensors)

    options = _core.AttentionOptions(2, 2, True, int_tensor([4, 0], device), None, 0.0, 0, 0)
    _, lse = _core.attention_forward(*[t.data for t in tensors], options)
    np.testing.assert_allclose(lse.numpy(), case.probabilities(q, k)[1], rtol=1e-6)
    assert np.isneginf(lse.numpy()[1]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("Tk", [100, 200])
def test_large_scores_do_not_overflow(Tk, dtype, device):
    """Rows whose maximum moves far from one tile of keys to the next, up and down."""
    case = Case(B=1, NH=1, NKV=1, Tq=3, Tk=Tk, HS=1, scale=1.0)
    q, dout = np.array([[[1.0], [-1.0], [0.5]]]), np.ones((1, 3, 1))
    k = _core.from_numpy(np.linspace(-300, 300, Tk)[None, :, None], dtype).numpy().astype(np.float64)
    v = random_array((1, Tk, 1), dtype=dtype)
    tensors = [leaf(x, dtype, device) for x in (q, k, v)]
    out = case.run(*tensors)
    limits = dict(rtol=1e-4, atol=1e-5) if dtype == FLOAT32 else TOLERANCE[dtype]
    np.testing.assert_allclose(out.numpy(), case.forward(q, k, v), **limits)
    out.backward(_core.from_numpy(dout, dtype, device))
    np.testing.assert_allclose(tensors[2].grad.numpy(), case.backward(q, k, v, dout)[2], **limits)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_nan_in_a_key_reaches_only_the_queries_that_see_it(dtype, device):
    case = Case(B=1, NH=1, NKV=1, Tq=130, Tk=130, causal=True)
    q, k, v, _ = case.inputs(dtype)
    k[0, 128] = np.nan
    out = case.run(*[leaf(x, dtype, device) for x in (q, k, v)]).numpy()
    assert np.isfinite(out[0, :128]).all() and np.isnan(out[0, 128:]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_packed_form_has_the_same_bits(dtype, device):
    case = Case(NH=2, NKV=1, Tq=70, Tk=70, HS=24, causal=True, lengths=[70, 50])
    q, k, v, dout = case.inputs(dtype)
    apart = [leaf(x, dtype, device) for x in (q, k, v)]
    packed = leaf(np.concatenate([q, k, v], -1), dtype, device)
    poison_allocator(device)
    out = case.run(*apart)
    out_packed = F.attention_qkv(packed, 2, 1, True, int_tensor(case.lengths, device))
    np.testing.assert_array_equal(out.numpy(), out_packed.numpy())
    for result in (out, out_packed):
        result.backward(_core.from_numpy(dout, dtype, device))
    np.testing.assert_array_equal(np.concatenate([t.grad.numpy() for t in apart], -1), packed.grad.numpy())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("Tq, Tk", [(70, 70), (5, 131), (20, 5)])
def test_dropout_draws_the_philox_mask(Tq, Tk, dtype, device):
    """Forward and backward against the reference with the mask that NumPy draws."""
    case = Case(NH=2, NKV=1, Tq=Tq, Tk=Tk, causal=True)
    generator = Generator(seed=12345678901234567)
    generator.step = 3
    generator.next_offset()
    offset = generator.state()["step"] * 2**20 + generator.state()["index"]
    kept = keep_mask(generator.seed, offset, 2 * 2 * Tq * Tk, 0.3).reshape(2, 2, Tq, Tk)
    case.keep = kept / 0.7
    check(case, dtype, device, dropout_p=0.3, generator=generator)
    assert generator.state()["index"] == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_a_replayed_graph_draws_the_masks_of_its_own_step(dtype, device):
    """What kernels add to their offsets while a graph is replayed, forward and backward; nothing on the CPU."""
    case, shift = Case(B=1, Tq=5, Tk=9), 0 if device == "cpu" else 5 << 20
    kept = keep_mask(7, (3 << 20) + shift, 2 * 5 * 9, 0.5).reshape(1, 2, 5, 9)
    case.keep = kept / 0.5
    generator = Generator(7)
    generator.step = 3
    if device != "cpu":
        _core.set_random_shift(shift, device)
    try:
        check(case, dtype, device, dropout_p=0.5, generator=generator)
    finally:
        if device != "cpu":
            _core.set_random_shift(0, device)


def test_dropout_without_a_generator_or_with_p_zero_changes_nothing():
    case = Case(Tq=9, Tk=9)
    tensors = [leaf(x) for x in case.inputs(FLOAT32)[:3]]
    plain = case.run(*tensors).numpy()
    np.testing.assert_array_equal(case.run(*tensors, dropout_p=0.5).numpy(), plain)
    np.testing.assert_array_equal(case.run(*tensors, dropout_p=0.0, generator=Generator(1)).numpy(), plain)


# ---------------------------------------------------------------------------------------------- the cache


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("Tq", [1, 2, 4, 5, 70])
@pytest.mark.parametrize("HS", [7, 64])
def test_decode(Tq, HS, dtype):
    check_decode(Tq, HS, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("Tq, HS, NH", [(1, 64, 2), (2, 200, 4), (3, 7, 6), (5, 16, 4)])
def test_decode_on_devices(Tq, HS, NH, dtype, device):
    check_decode(Tq, HS, dtype, NH, device)


def check_decode(Tq: int, HS: int, dtype: _core.DType, NH: int = 4, device: str = "cpu") -> None:
    """What lies outside [start, length) of the cache is NaN and must not be felt."""
    lengths, starts = [Tq, 150, 128, 100], [0, 3, 70, 99]
    case = Case(B=4, NH=NH, NKV=2, Tq=Tq, Tk=160, HS=HS, causal=True, causal_to_length=True)
    case.lengths, case.starts = lengths, starts
    q, k, v, _ = case.inputs(dtype)
    expected = case.forward(q, k, v)
    for b in range(4):
        for cache in (k, v):
            cache[b, : starts[b]] = np.nan
            cache[b, lengths[b] :] = np.nan
    tensors = [_core.from_numpy(x, dtype, device) for x in (q, k, v)]
    poison_allocator(device)
    counts = int_tensor(starts, device), int_tensor(lengths, device)
    out = _core.attention_decode(*tensors, NH, 2, *counts, None)
    assert_close(out, expected, dtype)


# ----------------------------------------------------------------------------------------- fixed bits


def all_results(case: Case, dtype: _core.DType = FLOAT32, device: str = "cpu") -> list[np.ndarray]:
    generator = Generator(7)
    q, k, v, dout = case.inputs(dtype)
    tensors = [leaf(x, dtype, device) for x in (q, k, v)]
    out = case.run(*tensors, dropout_p=0.1, generator=generator)
    out.backward(_core.from_numpy(dout, dtype, device))
    return [out.numpy().copy(), *[t.grad.numpy().copy() for t in tensors]]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_same_bits_for_any_number_of_threads(dtype):
    results = []
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        results.append(all_results(Case(B=3, NH=4, NKV=2, Tq=200, Tk=200, HS=16, causal=True), dtype))
        starts, lengths = int_tensor([0, 5, 9]), int_tensor([150, 170, 200])
        q, k, v, _ = Case(B=3, NH=4, NKV=2, Tq=2, Tk=200, HS=16).inputs(dtype)
        arguments = [_core.from_numpy(x, dtype) for x in (q, k, v)]
        results[-1].append(_core.attention_decode(*arguments, 4, 2, starts, lengths, None).numpy().copy())
    _core.set_num_threads(0)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_same_bits_in_any_order_of_the_device(dtype, device):
    results = []
    for _ in schedules(device):
        results.append(all_results(Case(B=1, NH=2, NKV=1, Tq=70, Tk=70, HS=16, causal=True), dtype, device))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_a_row_does_not_depend_on_the_rest_of_the_batch(dtype):
    case = Case(B=5, NH=4, NKV=2, Tq=90, Tk=90, HS=16, causal=True, lengths=[90, 17, 64, 90, 3])
    q, k, v, dout = case.inputs(dtype)
    together = [leaf(x, dtype) for x in (q, k, v)]
    out = case.run(*together)
    out.backward(_core.from_numpy(dout, dtype))
    for b in range(5):
        case.lengths = [[90, 17, 64, 90, 3][b]]
        alone = [leaf(x[b : b + 1], dtype) for x in (q, k, v)]
        out_b = case.run(*alone)
        out_b.backward(_core.from_numpy(dout[b : b + 1], dtype))
        np.testing.assert_array_equal(out_b.numpy()[0], out.numpy()[b])
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one.grad.numpy()[0], all_rows.grad.numpy()[b])


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("shape", [(0, 5, 5), (2, 0, 5), (2, 5, 0)])
def test_empty_inputs(shape):
    check(Case(*(shape[0], 2, 2), *shape[1:]), FLOAT32)


def test_wrong_input_is_refused():
    x, y = leaf(np.ones((2, 5, 12))), leaf(np.ones((2, 5, 6)))
    with pytest.raises(ValueError, match="num_heads must be a positive multiple of num_kv_heads, got 4 and 3"):
        F.attention(x, x, x, 4, 3)
    with pytest.raises(ValueError, match="num_heads must be a positive multiple of num_kv_heads, got 4 and 0"):
        F.attention(x, x, x, 4, 0)
    with pytest.raises(ValueError, match=r"q must have shape \(B, Tq, 5 \* HS\), got \(2, 5, 12\)"):
        F.attention(x, x, x, 5)
    with pytest.raises(ValueError, match=r"k must have shape \(2, Tk, 12\), got \(2, 5, 6\)"):
        F.attention(x, y, y, 4)
    with pytest.raises(ValueError, match=r"v must have shape \(2, 5, 12\), got \(2, 5, 6\)"):
        F.attention(x, x, y, 4)
    with pytest.raises(ValueError, match="k must be float32, got bfloat16"):
        F.attention(x, leaf(np.ones((2, 5, 12)), BFLOAT16), x, 4)
    with pytest.raises(ValueError, match="size of a head must be from 1 to 256, got 300"):
        F.attention_qkv(leaf(np.ones((1, 1, 900))), 1)
    with pytest.raises(ValueError, match=r"lengths must have shape \(2\), got \(3\)"):
        F.attention(x, x, x, 4, lengths=int_tensor([5, 5, 5]))
    with pytest.raises(ValueError, match="dropout_p must be at least 0 and below 1, got 1"):
        F.attention(x, x, x, 4, dropout_p=1.0, generator=Generator(0))
    with pytest.raises(ValueError, match=r"qkv must have shape \(B, T, 6 \* HS\), got \(2, 5, 4\)"):
        F.attention_qkv(leaf(np.ones((2, 5, 4))), 2)
    heads = (2**64 + 2) // 3  # three times that is 2 in 64 bits
    with pytest.raises(ValueError, match=rf"C of at least num_heads = {heads}, got \(1, 1, 4\)"):
        F.attention_qkv(leaf(np.ones((1, 1, 4))), heads)


def test_counts_outside_the_keys_are_refused(device):
    """On a GPU by the next synchronize; until then kernels stay inside the keys."""
    x = leaf(np.ones((2, 5, 12)), device=device)
    with pytest.raises(IndexError, match="lengths must be from 0 to 5, got 6 in row 1"):
        F.attention(x, x, x, 4, lengths=int_tensor([5, 6], device))
        _core.synchronize(device)
    with pytest.raises(IndexError, match="starts must be from 0 to 5, got -1 in row 0"):
        counts = int_tensor([-1, 0], device), int_tensor([5, 5], device)
        _core.attention_decode(x.data, x.data, x.data, 4, 4, *counts, None)
        _core.synchronize(device)
