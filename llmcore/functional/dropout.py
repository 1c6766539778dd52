"""Dropout, with masks from a counter."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Generator, Tensor
from llmcore.functional.elementwise import add


class _Dropout(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, residual: _core.Tensor | None, p: float, seed: int, offset: int) -> Any:
        ctx.save(p, seed, offset)
        return _core.dropout(x, residual, p, seed, offset)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.dropout(dy, None, *ctx.saved), dy, None, None, None


def dropout(x: Tensor, p: float, generator: Generator | None) -> Tensor:
    """x with each element kept with probability 1 - p and scaled by 1 / (1 - p), else 0 (Srivastava et al. 2014).

    Without a generator, or with p 0, this is x itself.
    """
    if generator is None or p == 0:
        return x
    return _Dropout.apply(x, None, p, *generator.next_key())


def residual_dropout(x: Tensor, residual: Tensor, p: float, generator: Generator | None) -> Tensor:
    """residual + dropout(x) in one pass, of one shape and dtype."""
    if generator is None or p == 0:
        return add(residual, x)
    return _Dropout.apply(x, residual, p, *generator.next_key())
