"""Scaled dot-product attention."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Generator, Tensor


def _attention_options(
    num_heads: int,
    num_kv_heads: int | None,
    causal: bool,
    lengths: Tensor | _core.Tensor | None,
    scale: float | None,
    dropout_p: float,
    generator: Generator | None,
) -> _core.AttentionOptions:
    seed, offset = 0, 0
    if generator is None:
        dropout_p = 0.0
    elif dropout_p > 0:
        seed, offset = generator.next_key()
    lengths = lengths.data if isinstance(lengths, Tensor) else lengths
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    return _core.AttentionOptions(num_heads, num_kv_heads, causal, lengths, scale, dropout_p, seed, offset)


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Context, q: _core.Tensor, k: _core.Tensor, v: _core.Tensor, options: _core.AttentionOptions
    ) -> _core.Tensor:
        out, lse = _core.attention_forward(q, k, v, options)
        ctx.save(q, k, v, out, lse, options)
        return out

    @staticmethod
    def backward(ctx: Context, dout: _core.Tensor) -> Any:
        return *_core.attention_backward(dout, *ctx.saved), None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    num_kv_heads: int | None = None,
    causal: bool = False,
    lengths: Tensor | _core.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """softmax(scale * q k^T) v for every head (flash attention: Dao 2023, arXiv:2307.08691).

    q (B, Tq, NH*HS), k, v (B, Tk, NKV*HS) -> (B, Tq, NH*HS); HS from 1 to 256. Head h reads key/value head
    h // (NH / NKV). `causal` lines up the last query with the last key: query i sees the keys j <= i + Tk - Tq.
    `lengths` (B) int32 counts the valid keys of each row. A query that sees no key gives zeros. `scale` is 1 / sqrt(HS)
    unless given. The probabilities are dropped out with `dropout_p` if there is a generator.
    """
    options = _attention_options(num_heads, num_kv_heads, causal, lengths, scale, dropout_p, generator)
    return _Attention.apply(q, k, v, options)


class _AttentionQKV(Function):
    @staticmethod
    def forward(ctx: Context, qkv: _core.Tensor, options: _core.AttentionOptions) -> _core.Tensor:
        out, lse = _core.attention_qkv_forward(qkv, options)
        ctx.save(qkv, out, lse, options)
        return out

    @staticmethod
    def backward(ctx: Context, dout: _core.Tensor) -> Any:
        return _core.attention_qkv_backward(dout, *ctx.saved), None


def attention_qkv(
    qkv: Tensor,
    num_heads: int,
    num_kv_heads: int | None = None,
    causal: bool = True,
    lengths: Tensor | _core.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """`attention` on the packed projection: qkv (B, T, (NH + 2*NKV)*HS), every row q | k | v -> (B, T, NH*HS)."""
    options = _attention_options(num_heads, num_kv_heads, causal, lengths, scale, dropout_p, generator)
    return _AttentionQKV.apply(qkv, options)
