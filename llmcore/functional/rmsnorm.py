"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, weight: _core.Tensor, epsilon: float) -> _core.Tensor:
        y, rstd = _core.rmsnorm_forward(x, weight, epsilon)
        ctx.save(x, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        x, weight, rstd = ctx.saved
        return _core.rmsnorm_backward(dy, None, x, weight, rstd, ctx.grad_buffer(1)), None, None


def rmsnorm(x: Tensor, weight: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang, Sennrich 2019, arXiv:1910.07467).

    x (..., C), weight (C) -> (..., C).
    """
    return _RMSNorm.apply(x, weight, epsilon)


class _ResidualRMSNorm(Function):
    undefined_gradients = True  # the sum often leads nowhere else: then there is nothing to add

    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, residual: _core.Tensor, weight: _core.Tensor, epsilon: float) -> Any:
        total, y, rstd = _core.residual_rmsnorm_forward(x, residual, weight, epsilon)
        ctx.save(total, weight, rstd)
        return total, y

    @staticmethod
    def backward(ctx: Context, dsum: _core.Tensor | None, dy: _core.Tensor | None) -> Any:
        if dy is None:
            return dsum, dsum, None, None
        total, weight, rstd = ctx.saved
        dx = _core.rmsnorm_backward(dy, dsum, total, weight, rstd, ctx.grad_buffer(2))
        return dx, dx, None, None


def residual_rmsnorm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(x + residual, rmsnorm(x + residual)) in one pass over memory. Shapes as in `rmsnorm`."""
    return _ResidualRMSNorm.apply(x, residual, weight, epsilon)
