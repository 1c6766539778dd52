"""Cross-entropy, of logits and fused with the linear layer before it."""

from __future__ import annotations

from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Tensor, is_seed
from llmcore.labels import IGNORE_INDEX


class _CrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Context, logits: _core.Tensor, targets: _core.Tensor, options: _core.CrossEntropyOptions
    ) -> _core.Tensor:
        loss, lse, scale = _core.cross_entropy_forward(logits, targets, options)
        ctx.save(logits, lse, scale, targets, options)
        return loss

    @staticmethod
    def backward(ctx: Context, dloss: _core.Tensor) -> Any:
        return _core.cross_entropy_backward(dloss, *ctx.saved), None, None


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    num_items: float | None = None,
) -> Tensor:
    """The mean of -log softmax(logits)[target] over the targets that are not ignore_index, as a float32 scalar.

    logits (..., V), targets (...) int32. With num_items the sum is divided by that instead, as gradient accumulation
    needs it. label_smoothing as in torch. If every target is ignored the loss is 0.
    Raises IndexError for an id outside [0, V) that is not ignore_index.
    """
    options = _core.CrossEntropyOptions(ignore_index, label_smoothing, num_items)
    return _CrossEntropy.apply(logits, targets, options)


class _LinearCrossEntropy(Function):
    """Backward computes the logits again: a third product more, and nothing but lse kept."""

    @staticmethod
    def forward(
        ctx: Context,
        x: _core.Tensor,
        weight: _core.Tensor,
        targets: _core.Tensor,
        options: _core.CrossEntropyOptions,
    ) -> _core.Tensor:
        loss, lse, scale = _core.linear_cross_entropy_forward(x, weight, targets, options)
        ctx.save(x, weight, lse, scale, targets, options)
        return loss

    @staticmethod
    def backward(ctx: Context, dloss: _core.Tensor) -> Any:
        *saved, options = ctx.saved
        dweight, add = ctx.grad_to_write(1)
        dx = _core.linear_cross_entropy_backward(dloss, *saved, dweight, ctx.needs_grad(0), options, add)
        return dx, None, None, None


class _FusedLinearCrossEntropy(Function):
    """Forward computes the gradients, too, while a chunk's logits are there."""

    @staticmethod
    def forward(
        ctx: Context,
        x: _core.Tensor,
        weight: _core.Tensor,
        targets: _core.Tensor,
        options: _core.CrossEntropyOptions,
    ) -> _core.Tensor:
        dweight, add = ctx.grad_to_write(1)
        loss, dx = _core.linear_cross_entropy_fused(x, weight, targets, dweight, ctx.needs_grad(0), options, add)
        ctx.save(dx)
        return loss

    @staticmethod
    def backward(ctx: Context, dloss: _core.Tensor) -> Any:
        if not is_seed(dloss) and dloss.item() != 1.0:
            raise RuntimeError(
                f"linear_cross_entropy: with fused_backward=True the gradients are those of the loss itself, but "
                f"backward arrived with the gradient {dloss.item()}; scale with num_items, or use fused_backward=False"
            )
        (dx,) = ctx.saved
        return dx, None, None, None


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    num_items: float | None = None,
    fused_backward: bool = False,
) -> Tensor:
    """`cross_entropy` of the logits x weight^T, of which only a chunk of rows ever exists.

    x (..., C), weight (V, C), targets (...) int32. fused_backward: dx and the weight's gradient are computed in the
    forward pass; the caller promises to call `backward()` on the loss itself (a gradient other than 1 raises
    RuntimeError). Otherwise the backward pass computes the logits again.
    """
    options = _core.CrossEntropyOptions(ignore_index, label_smoothing, num_items)
    function = _FusedLinearCrossEntropy if fused_backward else _LinearCrossEntropy
    return function.apply(x, weight, targets, options)
