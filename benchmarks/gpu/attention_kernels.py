"""Cases of benchmarks/gpu/kernels.py: attention, as training and as generation with a cache call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.case import DEVICE, Case, compare, first_rows, on_torch, random_rows, torch
from llmcore import _core


def training_cases(dtype: str, B: int, T: int, NH: int, HS: int) -> Iterator[Case]:
    """Causal self-attention of packed rows; flops as those of FlashAttention's papers, 2.5 times as many backward."""
    qkv, dout = random_rows((B, T, 3 * NH * HS), dtype, 1), random_rows((B, T, NH * HS), dtype, 2)
    options = _core.AttentionOptions(NH, NH, True, None, None, 0.0, 0, 0)
    out, lse = _core.attention_qkv_forward(qkv, options)
    flops = 4.0 * B * NH * T * T * HS / 2

    # Float64 on the first head of the first row of the batch.
    packed = first_rows(qkv)[0].reshape(T, 3, NH, HS)[:, :, 0]
    q, k, v = packed[:, 0], packed[:, 1], packed[:, 2]
    gradient = first_rows(dout)[0, :, :HS]
    scores = np.where(np.tri(T, dtype=bool), q @ k.T / np.sqrt(HS), -np.inf)
    P = np.exp(scores - scores.max(-1, keepdims=True))
    P /= P.sum(-1, keepdims=True)
    dP = gradient @ v.T
    dS = P * (dP - (P * dP).sum(-1, keepdims=True)) / np.sqrt(HS)

    def check_forward() -> None:
        compare("attention forward", first_rows(_core.attention_qkv_forward(qkv, options)[0])[0, :, :HS], P @ v, dtype)

    def check_backward() -> None:
        dqkv = first_rows(_core.attention_qkv_backward(dout, qkv, out, lse, options))[0].reshape(T, 3, NH, HS)[:, :, 0]
        for i, (name, expected) in enumerate([("dq", dS @ k), ("dk", dS.T @ q), ("dv", P.T @ gradient)]):
            compare(f"attention {name}", dqkv[:, i], expected, dtype)

    run_torch = differentiate_torch = None
    if (tqkv := on_torch(qkv)) is not None:
        heads = tqkv.view(B, T, 3, NH, HS).permute(2, 0, 3, 1, 4).detach().requires_grad_()
        tdout = on_torch(dout).view(B, T, NH, HS).transpose(1, 2)

        def run_torch() -> Any:
            return torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)

        tout = run_torch()

        def differentiate_torch() -> Any:
            return torch.autograd.grad(tout, heads, tdout, retain_graph=True)

    shape = f"{B} x {T}, {NH} heads of {HS}"
    yield Case(
        f"attention forward {shape}", "attention", dtype, lambda: _core.attention_qkv_forward(qkv, options),
        check_forward, run_torch, flops=flops,
    )  # fmt: skip
    yield Case(
        f"attention backward {shape}", "attention", dtype,
        lambda: _core.attention_qkv_backward(dout, qkv, out, lse, options), check_backward, differentiate_torch,
        flops=2.5 * flops,
    )  # fmt: skip


def decode_cases(dtype: str, B: int, capacity: int, NH: int, NKV: int, HS: int) -> Iterator[Case]:
    """One new query for each row of the batch over a full cache."""
    q = random_rows((B, 1, NH * HS), dtype, 1)
    k, v = (random_rows((B, capacity, NKV * HS), dtype, seed) for seed in (2, 3))
    starts, lengths = (_core.from_numpy(np.full(B, n, np.int32), device=DEVICE) for n in (0, capacity))
    tq, tk, tv = on_torch(q), on_torch(k), on_torch(v)

    def run() -> _core.Tensor:
        return _core.attention_decode(q, k, v, NH, NKV, starts, lengths, None)

    def check() -> None:
        keys, values = first_rows(k)[0, :, :HS], first_rows(v)[0, :, :HS]
        scores = keys @ first_rows(q)[0, 0, :HS] / np.sqrt(HS)
        P = np.exp(scores - scores.max())
        compare("attention decode", first_rows(run())[0, 0, :HS], P @ values / P.sum(), dtype)

    def run_torch() -> Any:
        heads = [t.view(B, -1, n, HS).transpose(1, 2) for t, n in ((tq, NH), (tk, NKV), (tv, NKV))]
        return torch.nn.functional.scaled_dot_product_attention(*heads, enable_gqa=NH != NKV)

    yield Case(
        f"attention decode {B} x {capacity}, {NH}/{NKV} heads of {HS}", "attention", dtype, run, check,
        run_torch if tq is not None else None, float(k.nbytes + v.nbytes),
    )  # fmt: skip


def attention_cases(dtype: str, small: bool) -> Iterator[Case]:
    for shape in [(1, 40, 2, 64)] if small else [(16, 1024, 12, 64), (8, 2048, 16, 128)]:
        yield from training_cases(dtype, *shape)
    for shape in [(1, 40, 4, 2, 64)] if small else [(8, 4096, 12, 12, 64), (8, 4096, 32, 8, 128)]:
        yield from decode_cases(dtype, *shape)
