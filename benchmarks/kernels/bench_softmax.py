"""Softmax over rows.

python -m benchmarks.kernels.bench_softmax [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings, torch
from llmcore import functional as F


def reference(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


if __name__ == "__main__":
    for dtype in settings(__doc__):
        for N, C in [(4096, 256), (64, 50257)]:
            x = random_tensor((N, C), dtype, 1)
            compare(f"softmax {N} x {C}", dtype, [x], F.softmax, lambda t: torch.softmax(t, -1), reference, passes=2)
