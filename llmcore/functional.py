"""The differentiable operations: one Function per op, its forward and backward pass side by side.

Every op takes and returns `autograd.Tensor`s. Activations and parameters are float32 or bfloat16 (of one type in a
call); sums are accumulated in float32; gradients of parameters are float32. Letters: B batch, T time, C channels, V
vocabulary, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmcore import _core
from llmcore.autograd import Context, Function, Generator, Tensor


def _mask_key(generator: Generator) -> tuple[int, int]:
    """The Philox key and counter of the next dropout mask."""
    return generator.seed & 0xFFFFFFFFFFFFFFFF, generator.next_offset()


# ------------------------------------------------------------------------------------------ activation


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


# ------------------------------------------------------------------------------------------- attention


def _attention_options(
    num_heads: int,
    num_kv_heads: int | None,
    causal: bool,
    lengths: Tensor | _core.Tensor | None,
    scale: float | None,
    dropout_p: float,
    generator: Generator | None,
) -> _core.AttentionOptions:
    seed, offset = 0, 0
    if generator is None:
        dropout_p = 0.0
    elif dropout_p > 0:
        seed, offset = _mask_key(generator)
    lengths = lengths.data if isinstance(lengths, Tensor) else lengths
    return _core.AttentionOptions(num_heads, num_kv_heads or num_heads, causal, lengths, scale, dropout_p, seed, offset)


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Context, q: _core.Tensor, k: _core.Tensor, v: _core.Tensor, options: _core.AttentionOptions
    ) -> _core.Tensor:
        out, lse = _core.attention_forward(q, k, v, options)
        ctx.save(q, k, v, out, lse, options)
        return out

    @staticmethod
    def backward(ctx: Context, dout: _core.Tensor) -> Any:
        return *_core.attention_backward(dout, *ctx.saved), None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    num_kv_heads: int | None = None,
    causal: bool = False,
    lengths: Tensor | _core.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """softmax(scale * q k^T) v for every head (flash attention: Dao 2023, arXiv:2307.08691).

    q (B, Tq, NH*HS), k, v (B, Tk, NKV*HS) -> (B, Tq, NH*HS); HS from 1 to 256. Head h reads key/value head
    h // (NH / NKV). `causal` lines up the last query with the last key: query i sees the keys j <= i + Tk - Tq.
    `lengths` (B) int32 counts the valid keys of each row. A query that sees no key gives zeros. `scale` is 1 / sqrt(HS)
    unless given. The probabilities are dropped out with `dropout_p` if there is a generator.
    """
    options = _attention_options(num_heads, num_kv_heads, causal, lengths, scale, dropout_p, generator)
    return _Attention.apply(q, k, v, options)


class _AttentionQKV(Function):
    @staticmethod
    def forward(ctx: Context, qkv: _core.Tensor, options: _core.AttentionOptions) -> _core.Tensor:
        out, lse = _core.attention_qkv_forward(qkv, options)
        ctx.save(qkv, out, lse, options)
        return out

    @staticmethod
    def backward(ctx: Context, dout: _core.Tensor) -> Any:
        return _core.attention_qkv_backward(dout, *ctx.saved), None


def attention_qkv(
    qkv: Tensor,
    num_heads: int,
    num_kv_heads: int | None = None,
    causal: bool = True,
    lengths: Tensor | _core.Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """`attention` on the packed projection: qkv (B, T, (NH + 2*NKV)*HS), every row q | k | v -> (B, T, NH*HS)."""
    options = _attention_options(num_heads, num_kv_heads, causal, lengths, scale, dropout_p, generator)
    return _AttentionQKV.apply(qkv, options)


# --------------------------------------------------------------------------------------- cross_entropy


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
    ignore_index: int = -100,
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
        dx = _core.linear_cross_entropy_backward(dloss, *saved, ctx.grad_buffer(1), ctx.needs_grad(0), options)
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
        loss, dx = _core.linear_cross_entropy_fused(x, weight, targets, ctx.grad_buffer(1), ctx.needs_grad(0), options)
        ctx.save(dx)
        return loss

    @staticmethod
    def backward(ctx: Context, dloss: _core.Tensor) -> Any:
        if dloss.item() != 1.0:
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
    ignore_index: int = -100,
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


# ------------------------------------------------------------------------------------------- dropout


class _Dropout(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor, residual: _core.Tensor | None, p: float, seed: int, offset: int) -> Any:
        ctx.save(p, seed, offset)
        return _core.dropout(x, residual, p, seed, offset)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.dropout(dy, None, *ctx.saved), dy, None, None, None


def dropout(x: Tensor, p: float, generator: Generator | None) -> Tensor:
    """x with each element kept with probability 1 - p and scaled by 1 / (1 - p), else 0 (Srivastava et al. 2014).

    Without a generator, or with p 0, this is x itself.
    """
    if generator is None or p == 0:
        return x
    return _Dropout.apply(x, None, p, *_mask_key(generator))


def residual_dropout(x: Tensor, residual: Tensor, p: float, generator: Generator | None) -> Tensor:
    """residual + dropout(x) in one pass, of one shape and dtype."""
    if generator is None or p == 0:
        return add(residual, x)
    return _Dropout.apply(x, residual, p, *_mask_key(generator))


# ----------------------------------------------------------------------------------------- elementwise


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


def mse_loss(x: Tensor, target: Tensor) -> Tensor:
    """The mean of (x - target)^2 over all elements, computed in float32: a float32 scalar."""
    difference = sub(cast(x, _core.DType.float32), cast(target, _core.DType.float32))
    return mean(mul(difference, difference))


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


# ---------------------------------------------------------------------------------------------- matmul


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
        buffer = ctx.grad_buffer(index)
        if transpose == (True, False):  # the batch is part of the summed dimension
            _core.matmul_add(buffer, _rows(a), _rows(b), True, False)
            return None
        if len(a.shape) == 2 and len(b.shape) == 2:
            _core.matmul_add(buffer, a, b, *transpose)
            return None
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
        dweight = ctx.grad_buffer(1)
        if dweight is not None:
            pair = (dpre, x) if transpose_weight else (x, dpre)
            _core.matmul_add(dweight, _rows(pair[0]), _rows(pair[1]), True, False)
        dx = None
        if ctx.needs_grad(0):
            dx = _core.matmul(_rows(dpre), weight, False, not transpose_weight).view(x.shape)
        return dx, None, None, dy, None, None


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


# ---------------------------------------------------------------------------------------------- reduce


class _Sum(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        ctx.save(x.shape, x.dtype)
        return _core.sum(x)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.sum_backward(dy, *ctx.saved)


def sum(x: Tensor) -> Tensor:
    """The sum of all elements: a float32 scalar, of shape (). Added in double precision."""
    return _Sum.apply(x)


class _Mean(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        ctx.save(x.shape, x.dtype)
        return _core.mean(x)

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        return _core.mean_backward(dy, *ctx.saved)


def mean(x: Tensor) -> Tensor:
    """The mean of all elements: a float32 scalar, of shape (). NaN if there are none."""
    return _Mean.apply(x)


# --------------------------------------------------------------------------------------------- rmsnorm


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


# ----------------------------------------------------------------------------------------------- shape


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


# ------------------------------------------------------------------------------------------- softmax


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Context, x: _core.Tensor) -> _core.Tensor:
        y = _core.softmax_forward(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: _core.Tensor) -> Any:
        (y,) = ctx.saved
        return _core.softmax_backward(dy, y)


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum of exp(x) over the last dimension, of any size from 1."""
    return _Softmax.apply(x)
