"""Activation functions.

python -m benchmarks.kernels.bench_activation [--threads 1 2] [--dtype float32]
"""

from __future__ import annotations

import numpy as np

from benchmarks.timing import compare, random_tensor, settings, torch
from llmcore import functional as F


def gelu_new(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


if __name__ == "__main__":
    for dtype in settings(__doc__):
        x, up = random_tensor((1024, 3072), dtype, 1), random_tensor((1024, 3072), dtype, 2)
        ops = {
            "gelu_new": (
                lambda t: F.gelu(t, "tanh"),
                lambda t: torch.nn.functional.gelu(t, approximate="tanh"),
                gelu_new,
            ),
            "silu": (F.silu, lambda t: torch.nn.functional.silu(t), silu),
            "relu": (F.relu, lambda t: torch.relu(t), lambda a: np.maximum(a, 0)),
            "tanh": (F.tanh, lambda t: torch.tanh(t), np.tanh),
        }
        for name, op in ops.items():
            compare(f"{name} 1024 x 3072", dtype, [x], *op, passes=2)
        compare(
            "swiglu 1024 x 3072",
            dtype,
            [x, up],
            F.swiglu,
            lambda g, u: torch.nn.functional.silu(g) * u,
            lambda g, u: silu(g) * u,
            passes=3,
        )
