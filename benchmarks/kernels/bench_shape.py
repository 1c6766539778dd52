"""Permute, concat, split.

python -m benchmarks.kernels.bench_shape [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings, torch
from llmcore import functional as F

if __name__ == "__main__":
    for dtype in settings(__doc__):
        x = random_tensor((4, 256, 12, 64), dtype, 1)
        compare(
            "permute (B, T, NH, HS) to (B, NH, T, HS)",
            dtype,
            [x],
            lambda t: F.permute(t, (0, 2, 1, 3)),
            lambda t: t.permute(0, 2, 1, 3).contiguous(),
            lambda a: a.transpose(0, 2, 1, 3),
            passes=2,
        )
        compare(
            "concat of two, last axis",
            dtype,
            [x, x],
            lambda a, b: F.concat([a, b], -1),
            lambda a, b: torch.cat([a, b], -1),
            lambda a, b: np.concatenate([a, b], -1),
            passes=4,
        )
        compare(
            "split, first of three",
            dtype,
            [random_tensor((1024, 2304), dtype, 2)],
            lambda t: F.split(t, (768, 768, 768), -1)[0],
            lambda t: t.split(768, -1)[0].contiguous(),
            lambda a: a[:, :768],
            passes=2,
        )
