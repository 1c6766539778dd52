"""Activations, on their own; `linear` has them fused."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor


class _Activation(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, activation: str) -> _core.Tensor:
        ctx.save(x, activation)
        return _core.activation_forward(x, activation)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        x, activation = ctx.saved
        return _core.activation_backward(dy, x, activation), None


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution's integral up to x: exact ("none", erf) or "tanh" (GPT-2's, arXiv:1606.08415).

    Raises ValueError for another `approximate`.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate must be "none" or "tanh", got {approximate!r}')
    return _Activation.apply(x, "gelu" if approximate == "none" else "gelu_new")


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return _Activation.apply(x, "relu")


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x) (arXiv:1702.03118)."""
    return _Activation.apply(x, "silu")


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return _Activation.apply(x, "tanh")


class _Sigmoid(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        y = _core.sigmoid_forward(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.sigmoid_backward(dy, *ctx.saved)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return _Sigmoid.apply(x)


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Context, gate: _core.Tensor, up: _core.Tensor) -> _core.Tensor:
        ctx.save(gate, up)
        return _core.swiglu_forward(gate, up)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.swiglu_backward(dy, *ctx.saved)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, in one pass (Shazeer 2020, arXiv:2002.05202)."""
    return _SwiGLU.apply(gate, up)
