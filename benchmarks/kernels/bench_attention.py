"""Attention over the packed projection.

python -m benchmarks.kernels.bench_attention [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings, torch
from llmcore import functional as F
from llmcore.autograd import Tensor

HEADS, SIZE = 12, 64


def heads(qkv: np.ndarray) -> np.ndarray:
    """(B, T, 3 * NH * HS) -> (3, B, NH, T, HS)"""
    B, T, _ = qkv.shape
    return qkv.reshape(B, T, 3, HEADS, SIZE).transpose(2, 0, 3, 1, 4)


def reference(qkv: np.ndarray) -> np.ndarray:
    q, k, v = heads(qkv.astype(np.float64))
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(SIZE)
    scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v  # (B, NH, T, HS)
    return out.transpose(0, 2, 1, 3).reshape(*qkv.shape[:2], HEADS * SIZE)


def ours(qkv: Tensor) -> Tensor:
    return F.attention_qkv(qkv, HEADS, causal=True)


def theirs(qkv):  # noqa: ANN001, ANN201 (torch may be absent)
    B, T, _ = qkv.shape
    q, k, v = qkv.view(B, T, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).reshape(B, T, HEADS * SIZE)


if __name__ == "__main__":
    for dtype in settings(__doc__):
        for B, T in [(4, 256), (1, 1024)]:
            qkv = random_tensor((B, T, 3 * HEADS * SIZE), dtype, 1)
            flops = 2.0 * B * HEADS * T * T * SIZE  # two products, half of each masked
            title = f"attention {B} x {T} x {HEADS} x {SIZE}"
            compare(title, dtype, [qkv], ours, theirs, reference, passes=0, flops=flops)
