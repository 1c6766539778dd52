"""Arithmetic on each element by itself."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _Add(Function):
    @staticmethod
    def forward(ctx: Context, a: _core.Tensor, b: _core.Tensor) -> _core.Tensor:
        return _core.add(a, b)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return dy, dy


def add(a: Tensor, b: Tensor | float) -> Tensor:
    """a + b, of one shape and dtype; b may be a number."""
    return _Add.apply(a, b) if isinstance(b, Tensor) else _Scale.apply(a, 1.0, b)


class _Sub(Function):
    @staticmethod
    def forward(ctx: Context, a: _core.Tensor, b: _core.Tensor) -> _core.Tensor:
        return _core.sub(a, b)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return dy, _core.scale(dy, -1.0) if ctx.needs_grad(1) else None


def sub(a: Tensor, b: Tensor | float) -> Tensor:
    """a - b, of one shape and dtype; b may be a number."""
    return _Sub.apply(a, b) if isinstance(b, Tensor) else _Scale.apply(a, 1.0, -b)


class _Mul(Function):
    @staticmethod
    def forward(ctx: Context, a: _core.Tensor, b: _core.Tensor) -> _core.Tensor:
        ctx.save(a if ctx.needs_grad(1) else None, b if ctx.needs_grad(0) else None)
        return _core.mul(a, b)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        a, b = ctx.saved
        return None if b is None else _core.mul(dy, b), None if a is None else _core.mul(dy, a)


def mul(a: Tensor, b: Tensor | float) -> Tensor:
    """a * b, element by element, of one shape and dtype; b may be a number."""
    return _Mul.apply(a, b) if isinstance(b, Tensor) else _Scale.apply(a, b, 0.0)


class _Scale(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, factor: float, offset: float) -> _core.Tensor:
        ctx.save(factor)
        return _core.scale(x, factor, offset)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        (factor,) = ctx.saved
        return dy if factor == 1.0 else _core.scale(dy, factor), None, None


def scale(x: Tensor, factor: float, offset: float = 0.0) -> Tensor:
    """x * factor + offset."""
    return _Scale.apply(x, factor, offset)


class _Cast(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, dtype: _core.DType) -> _core.Tensor:
        ctx.save(x.dtype)
        return x.cast(dtype)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        (dtype,) = ctx.saved
        return dy.cast(dtype), None


def cast(x: Tensor, dtype: _core.DType) -> Tensor:
    """x in another float type; x itself if it has that type already."""
    return x if x.dtype == dtype else _Cast.apply(x, dtype)
