"""Arithmetic element by element.

python -m benchmarks.kernels.bench_elementwise [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

from benchmarks.timing import compare, random_tensor, settings
from llmcore import functional as F

if __name__ == "__main__":
    for dtype in settings(__doc__):
        pair = [random_tensor((1024, 3072), dtype, seed) for seed in (1, 2)]
        compare("add 1024 x 3072", dtype, pair, F.add, lambda a, b: a + b, lambda a, b: a + b, passes=3)
        compare("mul 1024 x 3072", dtype, pair, F.mul, lambda a, b: a * b, lambda a, b: a * b, passes=3)
        compare(
            "scale 1024 x 3072",
            dtype,
            pair[:1],
            lambda x: F.scale(x, 0.5),
            lambda x: x * 0.5,
            lambda x: x * 0.5,
            passes=2,
        )
