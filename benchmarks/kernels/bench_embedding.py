"""Token and position embeddings.

python -m benchmarks.kernels.bench_embedding [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings
from llmcore import _core
from llmcore import functional as F

if __name__ == "__main__":
    for dtype in settings(__doc__):
        B, T, V, C = 4, 256, 50257, 768
        ids = _core.from_numpy(np.random.default_rng(1).integers(0, V, (B, T)))
        compare(
            f"token_position_embedding {B} x {T} x {C}",
            dtype,
            [ids, random_tensor((V, C), dtype, 2), random_tensor((1024, C), dtype, 3)],
            lambda i, tokens, positions: F.token_position_embedding(i, None, tokens, positions),
            lambda i, tokens, positions: tokens[i.long()] + positions[: i.shape[1]],
            lambda i, tokens, positions: tokens[i] + positions[: i.shape[1]],
            passes=C * (3 if dtype == _core.DType.float32 else 1.5),  # of the ids: rows of 2 tables read, 1 written
        )
