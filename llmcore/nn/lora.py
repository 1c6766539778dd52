"""A linear layer with a low-rank adapter beside it (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from llmcore import _core
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor
from llmcore.nn.layers import Dropout, Linear
from llmcore.nn.module import Parameter

_ACTIVATIONS = {
    "gelu": lambda x: F.gelu(x, approximate="none"),
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": F.tanh,
}


class LoraLinear(Linear):
    """y = activation(x weight^T + bias + scaling * dropout(x) A^T B^T); weight and bias are those of `base`, shared.

    Args:
        base: the layer that is adapted; its weight may be (out, in) or, in a Conv1D, (in, out).
        lora_A: (r, in). lora_B: (out, r). Both in the dtype of the weight.
        scaling: alpha / r, or alpha / sqrt(r).
        dropout_p, generator: dropout of x on its way into the adapter.
    """

    def __init__(
        self,
        base: Linear,
        lora_A: Parameter,
        lora_B: Parameter,
        scaling: float,
        dropout_p: float,
        generator: Generator,
    ):
        self.base = [base]  # in a list of its own: its parameters are listed here, under their own names
        self.weight, self.bias, self.activation = base.weight, base.bias, base.activation
        self.transpose_weight = base.transpose_weight
        self.lora_A, self.lora_B, self.scaling = lora_A, lora_B, scaling
        self.lora_dropout = Dropout(dropout_p, generator)
        self._before_merge: _core.Tensor | None = None

    def children(self):  # type: ignore[no-untyped-def]
        """Without `base`: what it holds is held here."""
        return ((name, part) for name, part in super().children() if not name.startswith("base."))

    @property
    def merged(self) -> bool:
        """Whether the adapter is part of the weight at the moment."""
        return self._before_merge is not None

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)"""
        if self.merged:
            return super().__call__(x)
        y = F.linear(x, self.weight, self.bias, None, self.transpose_weight)  # (..., out)
        low = F.scale(F.linear(self.lora_dropout(x), self.lora_A), self.scaling)  # (..., r)
        y = F.linear(low, self.lora_B, residual=y)
        return _ACTIVATIONS[self.activation](y) if self.activation else y

    def combined_weight(self) -> Tensor:
        """The weight and its adapter as one tensor, in the weight's shape, with gradients for the adapter."""
        if self.merged:
            return self.weight
        return F.add(self.weight, self._delta())

    def _delta(self) -> Tensor:
        """scaling * B A, in the weight's shape."""
        low = F.scale(self.lora_B, self.scaling)
        if self.transpose_weight:
            return F.matmul(low, self.lora_A)  # (out, in)
        return F.matmul(self.lora_A, low, transpose_a=True, transpose_b=True)  # (in, out)

    def merge(self) -> None:
        """Adds the adapter to the weight; the weight before is kept, so that `unmerge` gives it back bit for bit."""
        if self.merged:
            return
        combined = F.add(
            Tensor(self.weight.data.cast(_core.DType.float32)), Tensor(self._delta().data.cast(_core.DType.float32))
        )
        self._before_merge = self.weight.data.clone()
        self.weight.data.copy_(combined.data)

    def unmerge(self) -> None:
        """Gives the weight back what it was before `merge`."""
        if self._before_merge is not None:
            self.weight.data.copy_(self._before_merge)
            self._before_merge = None

    def unload(self) -> Linear:
        """The layer without the adapter, as it was before or, after `merge`, with the sum as its weight."""
        (base,) = self.base
        return base
