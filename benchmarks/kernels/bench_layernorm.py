"""Layer normalisation.

python -m benchmarks.kernels.bench_layernorm [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings, torch
from llmcore import functional as F


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


if __name__ == "__main__":
    for dtype in settings(__doc__):
        for N, C in [(1024, 768), (4096, 384)]:
            compare(
                f"layernorm {N} x {C}",
                dtype,
                [random_tensor(shape, dtype, seed) for seed, shape in enumerate([(N, C), (C,), (C,)])],
                lambda x, weight, bias: F.layernorm(x, weight, bias, 1e-5),
                lambda x, weight, bias: torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5),
                reference,
                passes=2,
            )
