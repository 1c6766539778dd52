"""Softmax."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        y = _core.softmax_forward(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        (y,) = ctx.saved
        return _core.softmax_backward(dy, y)


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum of exp(x) over the last dimension, of any size from 1."""
    return _Softmax.apply(x)
