"""Building blocks of models: they hold parameters and call functions, no numerics of their own."""

from __future__ import annotations

from llmcore.nn.layers import Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm, feed_forward
from llmcore.nn.lora import LoraLinear
from llmcore.nn.module import Module, Parameter

__all__ = [
    "Conv1D",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "LoraLinear",
    "Module",
    "Parameter",
    "RMSNorm",
    "feed_forward",
]
