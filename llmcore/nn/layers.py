"""Layers with parameters. Weights are drawn from a normal distribution by `Initializer`, so a model is a function of
its seed."""

from __future__ import annotations

import zlib

import numpy as np

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor
from llmcore.nn.module import Module, Parameter


class Initializer:
    """First values of parameters. Each name has a random stream of its own: adding a layer changes no other one.

    With seed None the parameters are only allocated: a checkpoint is about to fill them.
    """

    def __init__(self, seed: int | None, dtype: _core.DType = _core.DType.float32, device: str = "cpu"):
        self.seed, self.dtype, self.device = seed, dtype, device

    def normal(self, name: str, shape: tuple[int, ...], std: float) -> Parameter:
        if self.seed is None:
            return Parameter(_core.empty(shape, self.dtype, self.device))
        random = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        # On the CPU straight into the parameter: arrays between would cost as much in page faults as the numbers do.
        in_place = self.dtype == _core.DType.float32 and self.device == "cpu"
        data = _core.empty(shape, self.dtype, self.device) if in_place else None
        values = np.empty(shape, np.float32) if data is None else data.numpy()
        random.standard_normal(out=values, dtype=np.float32)
        values *= np.float32(std)
        return Parameter(_core.from_numpy(values, self.dtype, self.device) if data is None else data)

    def constant(self, shape: tuple[int, ...], value: float) -> Parameter:
        data = _core.empty(shape, self.dtype, self.device)
        data.fill_(value)
        return Parameter(data)


class Linear(Module):
    """y = activation(x weight^T + bias), weight (out, in): PyTorch's orientation."""

    transpose_weight = True

    def __init__(
        self,
        init: Initializer,
        name: str,
        in_features: int,
        out_features: int,
        *,
        std: float = 0.02,
        bias: bool = True,
        activation: str | None = None,
    ):
        shape = (out_features, in_features) if self.transpose_weight else (in_features, out_features)
        self.weight = init.normal(f"{name}.weight", shape, std)
        self.bias = init.constant((out_features,), 0.0) if bias else None
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)"""
        return F.linear(x, self.weight, self.bias, self.activation, self.transpose_weight)

    def combined_weight(self) -> Tensor:
        """What stands for the layer where its product is part of another op, as in the fused loss."""
        return self.weight


class Conv1D(Linear):
    """A Linear with weight (in, out): the orientation in which GPT-2 was published."""

    transpose_weight = False


def feed_forward(first: Linear, second: Linear, x: Tensor) -> Tensor:
    """second(first(x)), where `first` has an activation and `second` none.

    One op on a GPU, where a pass over the hidden activations costs their way through memory. On the CPU the slopes cost
    more than that, alone or at the end of a product (0.90 to 1.05 times as fast, measured), so the layers stay two; and
    a layer that is adapted (LoRA) always has a call of its own.
    """
    plain = type(first) in (Linear, Conv1D) and type(second) is type(first)
    if x.device == "cpu" or not plain or first.activation is None:
        return second(first(x))
    return F.feed_forward(
        *(x, first.weight, first.bias, second.weight, second.bias, first.activation, first.transpose_weight)
    )


class Embedding(Module):
    """Rows of a table: ids (...) -> (..., C)."""

    def __init__(self, init: Initializer, name: str, num_embeddings: int, embedding_dim: int, *, std: float = 0.02):
        self.weight = init.normal(f"{name}.weight", (num_embeddings, embedding_dim), std)

    def __call__(self, ids: _core.Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class LayerNorm(Module):
    """Layer normalisation over the last dimension; `after_residual` adds first, in the same pass."""

    def __init__(self, init: Initializer, size: int, epsilon: float = 1e-5, bias: bool = True):
        self.weight = init.constant((size,), 1.0)
        self.bias = init.constant((size,), 0.0) if bias else None
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return F.layernorm(x, self.weight, self.bias, self.epsilon)

    def after_residual(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(x + residual, norm(x + residual))"""
        return F.residual_layernorm(x, residual, self.weight, self.bias, self.epsilon)


class RMSNorm(Module):
    """Root-mean-square normalisation over the last dimension."""

    def __init__(self, init: Initializer, size: int, epsilon: float = 1e-6):
        self.weight = init.constant((size,), 1.0)
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return F.rmsnorm(x, self.weight, self.epsilon)

    def after_residual(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return F.residual_rmsnorm(x, residual, self.weight, self.epsilon)


class Dropout(Module):
    """Sets elements to zero with probability p while training, and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float, generator: Generator):
        self.p = p
        self.generator = generator

    def __call__(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.generator) if self.training and self.p > 0 else x
