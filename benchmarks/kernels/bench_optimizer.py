"""Optimizer steps over flat buffers.

python -m benchmarks.kernels.bench_optimizer [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import as_torch, check, random_tensor, report, settings, torch
from llmcore import _core

N = 1 << 25  # beyond every cache, as the parameters of a model are
OPTIONS = dict(learning_rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)


def bench_adamw(dtype: _core.DType) -> None:
    master, gradients = random_tensor((N,), _core.DType.float32, 1), random_tensor((N,), _core.DType.float32, 2)
    params = master.cast(dtype)
    held = None if dtype == _core.DType.float32 else master
    m, v = _core.zeros((N,)), _core.zeros((N,))
    before = (params if held is None else held).numpy().astype(np.float64)

    def step() -> None:
        _core.adamw_step(params, held, gradients, m, v, **OPTIONS, step=1)

    step()  # the first step moves by the sign of the gradient
    g = gradients.numpy().astype(np.float64)
    expected = before * (1 - 1e-4) - 1e-3 * g / (np.abs(g) + 1e-8)
    check(params if held is None else held, expected, 1e-6)
    candidates = {"llmcore": step, "torch": None}
    if torch is not None:
        parameter = torch.nn.Parameter(as_torch(master))
        parameter.grad = as_torch(gradients)
        candidates["torch"] = torch.optim.AdamW([parameter], 1e-3, (0.9, 0.95), weight_decay=0.1, fused=True).step
    # read and written: params, m, v; read: gradients; with bfloat16 the parameters are written beside the master
    nbytes = 28.0 * N if held is None else 30.0 * N
    report(f"adamw_step {N} (torch: float32, fused)", dtype, candidates, nbytes=nbytes)


if __name__ == "__main__":
    for each in settings(__doc__):
        bench_adamw(each)
