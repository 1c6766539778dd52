"""Rows of a table."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


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
