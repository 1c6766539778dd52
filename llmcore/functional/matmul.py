"""Matrix products and linear layers."""

from __future__ import annotations

import math
from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


def _rows(x: _core.Tensor) -> _core.Tensor:
    """(..., C) -> (N, C)"""
    return x.view((math.prod(x.shape[:-1]), x.shape[-1]))


class _MatMul(Function):
    @staticmethod
    def forward(ctx: Context, a: _core.Tensor, b: _core.Tensor, transpose_a: bool, transpose_b: bool) -> _core.Tensor:
        ctx.save(a, b, transpose_a, transpose_b)
        return _core.matmul(a, b, transpose_a, transpose_b)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        a, b, transpose_a, transpose_b = ctx.saved
        da = db = None
        if ctx.needs_grad(0):
            pair = (b, dy, transpose_b, True) if transpose_a else (dy, b, False, not transpose_b)
            da = _MatMul._gradient(ctx, 0, a, *pair)
        if ctx.needs_grad(1):
            pair = (dy, a, True, transpose_a) if transpose_b else (a, dy, not transpose_a, False)
            db = _MatMul._gradient(ctx, 1, b, *pair)
        return da, db, None, None

    @staticmethod
    def _gradient(
        ctx: Context, index: int, source: _core.Tensor, a: _core.Tensor, b: _core.Tensor, *transpose: bool
    ) -> _core.Tensor | None:
        """op(a) op(b), the gradient of input `index`; summed over the matrices of the batch if all share that input."""
        shared = len(source.shape) == 2
        if not shared:
            return _core.matmul(a, b, *transpose)
        if transpose == (True, False):  # the batch is part of the summed dimension
            buffer, add = ctx.grad_to_write(index)
            _core.matmul_add(buffer, _rows(a), _rows(b), True, False, add)
            return None
        if len(a.shape) == 2 and len(b.shape) == 2:
            buffer, add = ctx.grad_to_write(index)
            _core.matmul_add(buffer, a, b, *transpose, add)
            return None
        buffer = ctx.grad_buffer(index)
        batch = math.prod((a if len(a.shape) > 2 else b).shape[:-2])
        for i in range(batch):
            pair = (
                x if len(x.shape) == 2 else x.view((batch, *x.shape[-2:])).narrow(i, 1).view(x.shape[-2:])
                for x in (a, b)
            )
            _core.matmul_add(buffer, *pair, *transpose)
        return None


def matmul(a: Tensor, b: Tensor, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """The matrix products of the last two dimensions: (..., M, K) x (..., K, N) -> (..., M, N).

    With transpose_a, a is (..., K, M); with transpose_b, b is (..., N, K). The leading dimensions are equal, or one of
    the two has none and is used for all.
    """
    return _MatMul.apply(a, b, transpose_a, transpose_b)


class _Linear(Function):
    @staticmethod
    def forward(
        ctx: Context,
        x: _core.Tensor,
        weight: _core.Tensor,
        bias: _core.Tensor | None,
        residual: _core.Tensor | None,
        activation: str,
        transpose_weight: bool,
    ) -> _core.Tensor:
        recording = any(ctx.needs_grad(index) for index in range(4))
        y, pre = _core.linear_forward(
            x, weight, bias, activation, residual, transpose_weight, recording and activation != ""
        )
        ctx.save(x, weight, pre, activation, transpose_weight)
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        x, weight, pre, activation, transpose_weight = ctx.saved
        dpre = _core.bias_activation_backward(dy, pre, activation, ctx.grad_buffer(2))
        _weight_gradient(ctx, 1, dpre, x, transpose_weight)
        return _input_gradient(ctx, 0, dpre, x, weight, transpose_weight), None, None, dy, None, None


def _weight_gradient(ctx: Context, index: int, dy: _core.Tensor, x: _core.Tensor, transpose_weight: bool) -> None:
    """Of input `index`, the weight with which a linear layer made (..., N) of x (..., K)."""
    dweight, add = ctx.grad_to_write(index)
    if dweight is not None:
        pair = (dy, x) if transpose_weight else (x, dy)
        _core.matmul_add(dweight, _rows(pair[0]), _rows(pair[1]), True, False, add)


def _input_gradient(
    ctx: Context, index: int, dy: _core.Tensor, x: _core.Tensor, weight: _core.Tensor, transpose_weight: bool
) -> _core.Tensor | None:
    """Of input `index`, of which a linear layer made (..., N): shaped as x."""
    if not ctx.needs_grad(index):
        return None
    return _core.matmul(_rows(dy), weight, False, not transpose_weight).view(x.shape)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    transpose_weight: bool = True,
    residual: Tensor | None = None,
) -> Tensor:
    """residual + activation(x weight + bias) in one pass; what is None is left out.

    x (..., K); weight (N, K) with transpose_weight (as in torch), else (K, N) (as in GPT-2); bias (N); residual and
    result (..., N). activation: "gelu_new" (tanh), "gelu" (erf), "relu", "silu" or "tanh".
    """
    return _Linear.apply(x, weight, bias, residual, activation or "", transpose_weight)


class _FeedForward(Function):
    @staticmethod
    def forward(
        ctx: Context,
        x: _core.Tensor,
        weight1: _core.Tensor,
        bias1: _core.Tensor | None,
        weight2: _core.Tensor,
        bias2: _core.Tensor | None,
        activation: str,
        transpose_weight: bool,
    ) -> _core.Tensor:
        recording = any(ctx.needs_grad(index) for index in range(5))
        hidden, pre = _core.linear_forward(x, weight1, bias1, activation, None, transpose_weight, recording)
        y, _ = _core.linear_forward(hidden, weight2, bias2, "", None, transpose_weight, False)
        ctx.save(x, weight1, weight2, pre, hidden, activation, transpose_weight)
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        x, weight1, weight2, pre, hidden, activation, transpose_weight = ctx.saved
        _core.bias_activation_backward(dy, None, "", ctx.grad_buffer(4))
        _weight_gradient(ctx, 3, dy, hidden, transpose_weight)
        dx = None
        if any(ctx.needs_grad(index) for index in range(3)):
            dpre = _core.linear_activation_backward(
                dy, weight2, pre, activation, transpose_weight, ctx.grad_buffer(2)
            )  # (..., hidden)
            _weight_gradient(ctx, 1, dpre, x, transpose_weight)
            dx = _input_gradient(ctx, 0, dpre, x, weight1, transpose_weight)
        return dx, None, None, None, None, None, None


def feed_forward(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    activation: str,
    transpose_weight: bool = True,
) -> Tensor:
    """activation(x weight1 + bias1) weight2 + bias2: two linear layers whose backward pass does without a pass of its
    own for the activation between them.

    x (..., C); weights (H, C) and (C2, H) with transpose_weight, else (C, H) and (H, C2); biases (H) and (C2) or None
    -> (..., C2). activation as in `linear`.
    """
    return _FeedForward.apply(x, weight1, bias1, weight2, bias2, activation, transpose_weight)
