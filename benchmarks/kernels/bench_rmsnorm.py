"""RMS normalisation.

python -m benchmarks.kernels.bench_rmsnorm [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings, torch
from llmcore import functional as F


def reference(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


if __name__ == "__main__":
    for dtype in settings(__doc__):
        for N, C in [(1024, 768), (4096, 384)]:
            compare(
                f"rmsnorm {N} x {C}",
                dtype,
                [random_tensor((N, C), dtype, 1), random_tensor((C,), dtype, 2)],
                lambda x, weight: F.rmsnorm(x, weight, 1e-6),
                lambda x, weight: torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-6),
                reference,
                passes=2,
            )
