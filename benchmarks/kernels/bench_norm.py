"""Norms of gradients.

python -m benchmarks.kernels.bench_norm [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import as_torch, check, random_tensor, report, settings, torch
from llmcore import _core

if __name__ == "__main__":
    for dtype in settings(__doc__):
        if dtype != _core.DType.float32:
            continue  # gradients of parameters are float32
        gradients = [random_tensor((1024, 3072), dtype, seed) for seed in range(4)]
        others = [as_torch(x) for x in gradients]
        expected = np.sqrt(sum((x.numpy().astype(np.float64) ** 2).sum() for x in gradients))
        check(_core.global_norm(gradients), expected, 1e-6)
        report(
            "global_norm of 4 x 1024 x 3072",
            dtype,
            {
                "llmcore": lambda x=gradients: _core.global_norm(x),
                "torch": torch and (lambda x=others: torch.nn.utils.get_total_norm(x)),
            },
            nbytes=sum(x.nbytes for x in gradients),
        )
        report(
            "all_finite 1024 x 3072",
            dtype,
            {
                "llmcore": lambda x=gradients[0]: _core.all_finite(x),
                "torch": torch and (lambda x=others[0]: torch.isfinite(x).all().item()),
            },
            nbytes=gradients[0].nbytes,
        )
