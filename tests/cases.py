"""What the kernel tests share: shapes that hurt, tolerances, references' tools. Tolerances live here and nowhere
else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmcore import _core
from llmcore.autograd import Tensor

FLOAT32, BFLOAT16 = _core.DType.float32, _core.DType.bfloat16
DTYPES = [FLOAT32, BFLOAT16]

# Row lengths around vector widths (16), blocks and powers of two.
ODD_SIZES = [1, 3, 16, 31, 33, 257]

# Against float64 on the same (already rounded) inputs. float32: rounding of sums of up to some thousand terms.
# bfloat16: one rounding of the result (2^-9 relative), with room for a few roundings in a row.
TOLERANCE = {FLOAT32: dict(rtol=2e-5, atol=2e-5), BFLOAT16: dict(rtol=1.6e-2, atol=1.6e-2)}


def random_array(shape: tuple[int, ...], seed: int = 0, scale: float = 1.0, dtype: _core.DType = FLOAT32) -> np.ndarray:
    """Normal numbers as float64, rounded to `dtype` so that reference and kernel see the same input."""
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return _core.from_numpy(values, dtype).numpy().astype(np.float64)


def leaf(values: np.ndarray, dtype: _core.DType = FLOAT32, device: str = "cpu") -> Tensor:
    return Tensor(_core.from_numpy(values, dtype, device), requires_grad=True)


def assert_close(actual: Tensor | _core.Tensor, expected: np.ndarray, dtype: _core.DType, scale: float = 1.0) -> None:
    """Within the tolerance of `dtype`; `scale` is the natural size of the values (sqrt(K) for a sum of K products)."""
    limits = TOLERANCE[dtype]
    np.testing.assert_allclose(actual.numpy() / scale, np.asarray(expected) / scale, **limits)


def poison_allocator(device: str = "cpu", nbytes: int = 1 << 22) -> None:
    """Fills the allocator's cache with NaN, so that a kernel which reads what it has not written is seen.

    The emulated device does so itself: there fresh memory is NaN.
    """
    blocks = []
    size = 64
    while size <= nbytes:
        block = _core.empty((size // 4,), FLOAT32, device)
        block.copy_(_core.from_numpy(np.full(size // 4, np.nan, np.float32)))
        blocks.append(block)
        size *= 2


def numeric_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, samples: int = 20, step: float = 1e-5) -> dict:
    """Central differences of a float64 function at up to `samples` random entries of x: {index: slope}."""
    chosen = np.random.default_rng(1).permutation(x.size)[:samples]
    slopes = {}
    for flat in chosen:
        index = np.unravel_index(flat, x.shape)
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        slopes[index] = (f(up) - f(down)) / (2 * step)
    return slopes


def check_gradient(
    gradient: _core.Tensor, f: Callable[[np.ndarray], float], x: np.ndarray, dtype: _core.DType, scale: float = 1.0
) -> None:
    """Compares a kernel's gradient with central differences of its float64 reference, relative to the largest slope.

    `scale` is the natural size of the terms that the gradient sums up, where they may cancel.
    """
    slopes = numeric_gradient(f, x)
    actual = gradient.numpy()
    scale = max(scale, max(abs(slope) for slope in slopes.values()))
    for index, slope in slopes.items():
        limits = TOLERANCE[dtype]
        np.testing.assert_allclose(actual[index] / scale, slope / scale, **limits, err_msg=f"gradient at {index}")
