"""Rotary position embedding."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _Rope(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, *arguments: Any) -> _core.Tensor:
        ctx.save(*arguments)
        return _core.rope_forward(x, *arguments)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.rope_backward(dy, *ctx.saved), None, None, None, None, None


def rope(
    x: Tensor,
    cos_table: _core.Tensor,
    sin_table: _core.Tensor,
    head_size: int,
    positions: _core.Tensor | None = None,
    rotated: int | None = None,
) -> Tensor:
    """Turns pairs (i, i + R/2) of every head by the angle of its position (Su et al. 2021, arXiv:2104.09864).

    x (B, T, heads*HS), head_size = HS; cos_table, sin_table (P, R/2) float32, R <= HS (elements from R on stay as they
    are); positions (B, T) int32, 0 .. T-1 if not given -> (B, T, heads*HS). Only the first `rotated` heads are turned
    (default: all), so a packed q | k | v is one call. Raises IndexError for positions outside the tables.
    """
    rotated = x.shape[-1] // head_size if rotated is None else rotated
    return _Rope.apply(x, cos_table, sin_table, positions, head_size, rotated)
