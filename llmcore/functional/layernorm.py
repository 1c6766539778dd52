"""Layer normalisation."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _LayerNorm(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, weight: _core.Tensor, bias: _core.Tensor | None, epsilon: float) -> Any:
        y, mean, rstd = _core.layernorm_forward(x, weight, bias, epsilon)
        ctx.save(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved
        dx = _core.layernorm_backward(dy, None, x, weight, mean, rstd, ctx.grad_buffer(1), ctx.grad_buffer(2))
        return dx, None, None, None


def layernorm(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last dimension (Ba et al. 2016, arXiv:1607.06450).

    x (..., C), weight (C), bias (C) or None -> (..., C).
    """
    return _LayerNorm.apply(x, weight, bias, epsilon)


class _ResidualLayerNorm(Function):
    undefined_gradients = True  # the sum often leads nowhere else: then there is nothing to add

    @staticmethod
    def forward(
        ctx: Context,
        x: _core.Tensor,
        residual: _core.Tensor,
        weight: _core.Tensor,
        bias: _core.Tensor | None,
        epsilon: float,
    ) -> Any:
        total, y, mean, rstd = _core.residual_layernorm_forward(x, residual, weight, bias, epsilon)
        ctx.save(total, weight, mean, rstd)
        return total, y

    @staticmethod
    def backward(ctx: Context, dsum: _core.Tensor | None, dy: _core.Tensor | None) -> Any:
        if dy is None:
            return dsum, dsum, None, None, None
        total, weight, mean, rstd = ctx.saved
        dx = _core.layernorm_backward(dy, dsum, total, weight, mean, rstd, ctx.grad_buffer(2), ctx.grad_buffer(3))
        return dx, dx, None, None, None


def residual_layernorm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """(x + residual, layernorm(x + residual)) in one pass over memory. Shapes as in `layernorm`."""
    return _ResidualLayerNorm.apply(x, residual, weight, bias, epsilon)
