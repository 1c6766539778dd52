"""How fast a run is, and how fast it could be: floating point operations per token and the machine's matmul peak."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

_SIZE = 1024  # 2 x 1024^3 operations: large enough for every core, a few hundredths of a second on two
_REPEATS = 4


@functools.lru_cache(maxsize=1)
def measured_matmul_peak() -> float:
    """Floating point operations per second of a float32 matrix product on this machine, by NumPy's BLAS.

    A yardstick from outside: our own kernels would always look good against themselves. Measured once per process,
    best of four.
    """
    generator = np.random.default_rng(0)
    a = generator.standard_normal((_SIZE, _SIZE), dtype=np.float32)
    b = generator.standard_normal((_SIZE, _SIZE), dtype=np.float32)
    product = np.empty_like(a)
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        np.matmul(a, b, out=product)
        best = min(best, time.perf_counter() - start)
    return 2 * _SIZE**3 / best


def flops_per_token(model: Any, sequence_length: int) -> float | None:
    """Operations of one trained token, forward and backward, by the usual count (Chowdhery et al. 2022, appendix B).

    6 per parameter that takes part in a matrix product (position embeddings do not, the token embedding does as the
    head), and 12 L C T for the attention scores. Recomputed activations are not counted: they are no progress. None
    for an unknown architecture.
    """
    config = getattr(model, "config", None)
    layers, width = getattr(config, "n_layer", None), getattr(config, "n_embd", None)
    if layers is None or width is None:
        return None
    positions = getattr(config, "n_positions", 0) * width
    parameters = model.num_parameters() - positions
    if not getattr(config, "tie_word_embeddings", True):
        parameters -= config.vocab_size * width  # the token table is a lookup then
    return 6.0 * parameters + 12.0 * layers * width * sequence_length
