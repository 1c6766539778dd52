"""Dropout, alone and with a residual.

python -m benchmarks.kernels.bench_dropout [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings, torch
from llmcore import functional as F
from llmcore.autograd import Generator, Tensor


def ours(x: Tensor) -> Tensor:
    return F.dropout(x, 0.1, Generator(1))  # the same mask every time


if __name__ == "__main__":
    for dtype in settings(__doc__):
        x = random_tensor((1024, 3072), dtype, 1)
        kept = ours(Tensor(x)).numpy() != 0
        if abs(kept.mean() - 0.9) > 0.01:
            raise SystemExit(f"the mask is wrong: {kept.mean():.3f} of the elements are kept, expected 0.9")
        compare(
            "dropout 1024 x 3072",
            dtype,
            [x],
            ours,
            lambda t: torch.nn.functional.dropout(t, 0.1),
            lambda a, kept=kept: np.where(kept, a / 0.9, 0),
            passes=2,
        )
