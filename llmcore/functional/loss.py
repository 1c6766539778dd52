"""Losses composed of other ops."""

from __future__ import annotations

from llmcore import _core
from llmcore.autograd import Tensor
from llmcore.functional.elementwise import cast, mul, sub
from llmcore.functional.reduce import mean


def mse_loss(x: Tensor, target: Tensor) -> Tensor:
    """The mean of (x - target)^2 over all elements, computed in float32: a float32 scalar."""
    difference = sub(cast(x, _core.DType.float32), cast(target, _core.DType.float32))
    return mean(mul(difference, difference))
