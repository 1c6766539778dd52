"""Philox4x32-10 in NumPy: the masks that the kernels must draw."""

from __future__ import annotations

import numpy as np


def philox(seed: int, offset: int, index: np.ndarray) -> np.ndarray:
    """Blocks (n, 4) uint32 of the counters (index, offset) under the key `seed` (Salmon et al., SC 2011)."""
    mask = np.uint64(0xFFFFFFFF)
    index = np.asarray(index, dtype=np.uint64)
    c0, c1 = index & mask, index >> np.uint64(32)
    c2, c3 = np.full_like(index, offset & 0xFFFFFFFF), np.full_like(index, offset >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            product1 & mask,
            (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            product0 & mask,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1).astype(np.uint32)


def keep_mask(seed: int, offset: int, n: int, p: float) -> np.ndarray:
    """Which of n elements dropout keeps: element e has word e % 4 of block e // 4, kept if that is >= p * 2^32."""
    words = philox(seed, offset, np.arange((n + 3) // 4)).reshape(-1)[:n]
    return words >= int(float(np.float32(p)) * 2**32)
