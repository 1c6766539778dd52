"""What a GPU benchmark of kernels measures: one case, its tensors on the device, and the check of its result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmcore import _core

torch: Any = None
with suppress(ImportError):
    import torch

DEVICE = "cuda"
DTYPES = {"float32": _core.DType.float32, "bfloat16": _core.DType.bfloat16}
TOLERANCE = {"float32": 2e-5, "bfloat16": 1.6e-2}
CHECKED_ROWS = 16


@dataclass
class Case:
    """What is measured: `nbytes` or `flops` of one call say how much work it is; `check` raises if it is wrong."""

    kernel: str
    family: str
    dtype: str
    run: Callable[[], Any]
    check: Callable[[], None]
    run_torch: Callable[[], Any] | None
    nbytes: float = 0
    flops: float = 0


def random_rows(shape: tuple[int, ...], dtype: str, seed: int) -> _core.Tensor:
    """Normal numbers on the device; a block of them is repeated, which is quicker than drawing each."""
    block = np.random.default_rng(seed).standard_normal((min(shape[0], 1024), *shape[1:]), dtype=np.float32)
    repeats = -(-shape[0] // len(block))
    rows = np.concatenate([block] * repeats)[: shape[0]]
    return _core.from_numpy(rows, DTYPES[dtype], DEVICE)


def on_torch(tensor: _core.Tensor) -> Any:
    """A copy on torch's side of the device; None where torch has no CUDA."""
    if torch is None or not torch.cuda.is_available():
        return None
    copy = torch.from_numpy(tensor.numpy()).cuda()
    return copy.bfloat16() if tensor.dtype == _core.DType.bfloat16 else copy


def first_rows(tensor: _core.Tensor) -> np.ndarray:
    return tensor.narrow(0, min(CHECKED_ROWS, tensor.shape[0])).numpy().astype(np.float64)


def compare(name: str, actual: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    error = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not error <= TOLERANCE[dtype]:
        raise SystemExit(f"{name}: error {error:.2e} of the largest element, expected below {TOLERANCE[dtype]:g}")
