"""The differentiable operations: one Function per op, its forward and backward pass side by side.

Every op takes and returns `autograd.Tensor`s. Activations and parameters are float32 or bfloat16 (of one type in a
call); sums are accumulated in float32; gradients of parameters are float32. Letters: B batch, T time, C channels, V
vocabulary, N rows.

One file per family, with the stem of its kernels.
"""

from __future__ import annotations

from llmcore.functional.activation import gelu, relu, sigmoid, silu, swiglu, tanh
from llmcore.functional.attention import attention, attention_qkv
from llmcore.functional.cross_entropy import cross_entropy, linear_cross_entropy
from llmcore.functional.dropout import dropout, residual_dropout
from llmcore.functional.elementwise import add, cast, mul, scale, sub
from llmcore.functional.embedding import embedding, token_position_embedding
from llmcore.functional.layernorm import layernorm, residual_layernorm
from llmcore.functional.loss import mse_loss
from llmcore.functional.matmul import feed_forward, linear, matmul
from llmcore.functional.reduce import mean, sum
from llmcore.functional.rmsnorm import residual_rmsnorm, rmsnorm
from llmcore.functional.rope import rope
from llmcore.functional.shape import concat, permute, split, view
from llmcore.functional.softmax import softmax

__all__ = [
    "add",
    "attention",
    "attention_qkv",
    "cast",
    "concat",
    "cross_entropy",
    "dropout",
    "embedding",
    "feed_forward",
    "gelu",
    "layernorm",
    "linear",
    "linear_cross_entropy",
    "matmul",
    "mean",
    "mse_loss",
    "mul",
    "permute",
    "relu",
    "residual_dropout",
    "residual_layernorm",
    "residual_rmsnorm",
    "rmsnorm",
    "rope",
    "scale",
    "sigmoid",
    "silu",
    "softmax",
    "split",
    "sub",
    "sum",
    "swiglu",
    "tanh",
    "token_position_embedding",
    "view",
]
