"""Sums over all elements."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _Sum(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        ctx.save(x.shape, x.dtype)
        return _core.sum(x)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.sum_backward(dy, *ctx.saved)


def sum(x: Tensor) -> Tensor:
    """The sum of all elements: a float32 scalar, of shape (). Added in double precision."""
    return _Sum.apply(x)


class _Mean(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        ctx.save(x.shape, x.dtype)
        return _core.mean(x)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.mean_backward(dy, *ctx.saved)


def mean(x: Tensor) -> Tensor:
    """The mean of all elements: a float32 scalar, of shape (). NaN if there are none."""
    return _Mean.apply(x)
