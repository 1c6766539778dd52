"""Rotary position embedding.

python -m benchmarks.kernels.bench_rope [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.timing import as_torch, compare, random_tensor, settings, torch
from llmcore import _core
from llmcore import functional as F


def reference(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    B, T, width = x.shape
    half = cos.shape[1]
    low, high = np.split(x.reshape(B, T, width // (2 * half), 2 * half), 2, axis=-1)
    c, s = cos[:T, None], sin[:T, None]
    return np.concatenate([low * c - high * s, high * c + low * s], axis=-1).reshape(x.shape)


def theirs(x: Any, cos: Any, sin: Any) -> Any:
    """As transformers writes it."""
    B, T, width = x.shape
    half = cos.shape[1]
    heads = x.view(B, T, width // (2 * half), 2 * half)
    turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
    c, s = (torch.cat((table, table), dim=-1)[:T, None].to(x.dtype) for table in (cos, sin))
    return (heads * c + turned * s).view(B, T, width)


def measure(B: int, T: int, heads: int, HS: int, dtype: _core.DType) -> None:
    angles = np.arange(T)[:, None] * 10000.0 ** (-np.arange(HS // 2) / (HS // 2))
    cos, sin = (_core.from_numpy(f(angles)) for f in (np.cos, np.sin))
    their_cos, their_sin = as_torch(cos), as_torch(sin)
    compare(
        f"rope {B} x {T}, {heads} heads of {HS}",
        dtype,
        [random_tensor((B, T, heads * HS), dtype, 1)],
        lambda x: F.rope(x, cos, sin, HS),
        lambda x: theirs(x, their_cos, their_sin),
        lambda x: reference(x, cos.numpy(), sin.numpy()),
        passes=2,
    )


if __name__ == "__main__":
    for dtype in settings(__doc__):
        measure(4, 512, 9, 64, dtype)
        measure(1, 2048, 32, 128, dtype)
