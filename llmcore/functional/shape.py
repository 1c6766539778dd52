"""The same elements in another shape or order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _View(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, shape: Sequence[int]) -> _core.Tensor:
        ctx.save(x.shape)
        return x.view(shape)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        (shape,) = ctx.saved
        return dy.view(shape), None


def view(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape, without a copy; one size may be -1."""
    return _View.apply(x, shape)


class _Permute(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, axes: Sequence[int]) -> _core.Tensor:
        ctx.save(axes)
        return _core.permute(x, axes)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        (axes,) = ctx.saved
        inverse = [0] * len(axes)
        for position, axis in enumerate(axes):
            inverse[axis] = position
        return _core.permute(dy, inverse), None


def permute(x: Tensor, axes: Sequence[int]) -> Tensor:
    """A copy of x whose axis i is axis axes[i] of x. Up to 5 dimensions."""
    return _Permute.apply(x, axes)


class _Concat(Function):
    @staticmethod
    def forward(ctx: Context, axis: int, *tensors: _core.Tensor) -> _core.Tensor:
        y = _core.concat(tensors, axis)
        ctx.save(axis, [tensor.shape[axis] for tensor in tensors])
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        axis, sizes = ctx.saved
        return (None, *_core.split(dy, sizes, axis))


def concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors one after the other along `axis`; their other sizes and their dtypes are equal."""
    return _Concat.apply(axis, *tensors)


class _Split(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, sizes: Sequence[int], axis: int) -> Any:
        ctx.save(axis)
        return tuple(_core.split(x, sizes, axis))

    @staticmethod
    def backward(ctx: Context, *gradients: _core.Tensor) -> Any:
        (axis,) = ctx.saved
        return _core.concat(gradients, axis), None, None


def split(x: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
    """Copies of the pieces of x along `axis`; `sizes` add up to the size of that axis."""
    return _Split.apply(x, sizes, axis)
