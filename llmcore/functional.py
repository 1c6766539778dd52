"""The differentiable operations: one Function per op, its forward and backward pass side by side.

Every op takes and returns `autograd.Tensor`s. Activations and parameters are float32 or bfloat16 (of one type in a
call); sums are accumulated in float32; gradients of parameters are float32. Letters: B batch, T time, C channels, V
vocabulary, N rows.
"""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor

# ----------------------------------------------------------------------------------------- elementwise


class _Add(Function):
    @staticmethod
    def forward(ctx: Context, a: _core.Tensor, b: _core.Tensor) -> _core.Tensor:
        return _core.add(a, b)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return dy, dy


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b, of one shape and dtype."""
    return _Add.apply(a, b)


# ------------------------------------------------------------------------------------------- embedding


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Context, ids: _core.Tensor, weight: _core.Tensor) -> _core.Tensor:
        ctx.save(ids)
        return _core.embedding_forward(ids, weight)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        (ids,) = ctx.saved
        if (dweight := ctx.grad_buffer(1)) is not None:
            _core.embedding_backward(dweight, dy, ids)
        return None, None


def embedding(ids: Tensor | _core.Tensor, weight: Tensor) -> Tensor:
    """The rows of `weight` (V, C) that `ids` (...) int32 names -> (..., C).

    Raises IndexError, with the id and the size of the table, for an id outside 0 .. V-1.
    """
    return _Embedding.apply(ids, weight)


class _TokenPositionEmbedding(Function):
    @staticmethod
    def forward(
        ctx: Context,
        ids: _core.Tensor,
        positions: _core.Tensor | None,
        token_weight: _core.Tensor,
        position_weight: _core.Tensor,
    ) -> _core.Tensor:
        ctx.save(ids, positions)
        return _core.token_position_embedding_forward(ids, positions, token_weight, position_weight)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        ids, positions = ctx.saved
        if (dtoken := ctx.grad_buffer(2)) is not None:
            _core.embedding_backward(dtoken, dy, ids)
        if (dposition := ctx.grad_buffer(3)) is not None:
            if positions is None:
                _core.position_embedding_backward(dposition, dy)
            else:
                _core.embedding_backward(dposition, dy, positions)
        return None, None, None, None


def token_position_embedding(
    ids: Tensor | _core.Tensor,
    positions: Tensor | _core.Tensor | None,
    token_weight: Tensor,
    position_weight: Tensor,
) -> Tensor:
    """token_weight[ids] + position_weight[positions]: ids, positions (B, T) int32, weights (V, C), (P, C) -> (B, T, C).

    Without positions they are 0 .. T-1. Raises IndexError for ids and positions outside their tables, and for T > P.
    """
    return _TokenPositionEmbedding.apply(ids, positions, token_weight, position_weight)


# ------------------------------------------------------------------------------------------- layernorm


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
