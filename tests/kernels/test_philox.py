from __future__ import annotations

import numpy as np
import pytest

from llmcore import _core
from tests.kernels.philox import philox

# kat_vectors of Random123 for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_known_answers(counter, key, expected):
    c, k = words(counter), words(key)
    seed, offset, index = k[0] | k[1] << 32, c[2] | c[3] << 32, c[0] | c[1] << 32
    assert list(_core.philox(seed, offset, index)) == words(expected)
    assert philox(seed, offset, np.array([index], dtype=np.uint64))[0].tolist() == words(expected)
