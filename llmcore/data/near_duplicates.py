"""Which texts are nearly the same: two editions of a book, a page fetched twice, a form filled in twice.

MinHash (Broder 1997, "On the resemblance and containment of documents") with one permutation (Li, Owen, Zhang 2012,
arXiv:1208.1259): letters and digits of a text in lower case, everything else a space, give the set of its passages of
PASSAGE bytes; each is hashed, the hashes fall into BINS bins, and the smallest of each bin stays. The part of the bins
in which two texts agree estimates the part of their passages that they share (Jaccard). Texts that agree in a whole
band of ROWS bins are compared, and belong together from SIMILARITY on; so do those that are connected by others.

Passages are short and SIMILARITY is low because the same play in the spelling of 1623 and in ours shares but 0.3 to
0.45 of its passages of 12 bytes, while 99 of 100 pairs of different plays share less than 0.06. In texts shorter than
LONG bytes what is on every page is soon a third of one; there it takes SIMILARITY_OF_SHORT. Of pairs that share 0.3,
one in 400 is never compared. A text takes 528 bytes of memory. The groups depend on the set of texts alone, not on
their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

PASSAGE = 12
BINS = 128
ROWS = 2
SIMILARITY, SIMILARITY_OF_SHORT = 0.25, 0.5
LONG = 16 * 1024

_FEWEST_PASSAGES = 64  # in shorter texts one word is much: "order 17 was sent" is not "order 18 was sent"
_EMPTY = np.uint32(0xFFFFFFFF)
_BASE = 0x9E3779B97F4A7C15 | 1  # odd: it has an inverse modulo 2^64
_PAIRS = 1 << 16  # compared at once
_LETTERS = bytes(
    byte if byte >= 128 or chr(byte).isalnum() else 32
    for byte in (ord(chr(code).lower()) if code < 128 else code for code in range(256))
)


def near_duplicate_groups(texts: Iterable[str]) -> list[list[int]]:
    """The numbers of the texts in each group of two or more that are (nearly) the same; `texts` is read once."""
    sketches, digests, sizes = [], [], []
    for text in texts:
        words = b" ".join(text.encode("utf-8", "replace").translate(_LETTERS).split())
        digests.append(int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big"))
        sketches.append(sketch(words))
        sizes.append(len(words))
    if len(sketches) < 2:
        return []
    return _connected(np.stack(sketches), np.array(digests, np.uint64), np.array(sizes))


def sketch(words: bytes) -> np.ndarray:
    """(BINS,) uint32: the smallest hash of a passage in each bin; all empty for a short text."""
    count = len(words) - PASSAGE + 1
    smallest = np.full(BINS, _EMPTY, np.uint32)
    if count < _FEWEST_PASSAGES:
        return smallest
    powers, inverses = _powers(len(words) + 1)
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(np.frombuffer(words, np.uint8) * powers[:-1], out=sums[1:])
    hashes = np.sort(_mix((sums[PASSAGE:] - sums[:-PASSAGE]) * inverses[:count]))
    # sorted hashes are sorted by bin, which the leading bits are
    edges = np.arange(BINS, dtype=np.uint64) << np.uint64(64 - BINS.bit_length() + 1)
    first = np.searchsorted(hashes, edges)
    filled = first < np.append(first[1:], count)
    smallest[filled] = ((hashes[first[filled]] >> np.uint64(16)) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return smallest


_tables = (np.ones(1, np.uint64), np.ones(1, np.uint64))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of _BASE and of its inverse, modulo 2^64."""
    global _tables
    if len(_tables[0]) < count:
        size = 1 << (count - 1).bit_length()
        made = []
        for base in (_BASE, pow(_BASE, -1, 1 << 64)):
            table = np.full(size, base, np.uint64)
            table[0] = 1
            made.append(np.cumprod(table, dtype=np.uint64))
        _tables = (made[0], made[1])
    return _tables[0][:count], _tables[1][:count]


def _mix(values: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of the value (the last step of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _connected(sketches: np.ndarray, digests: np.ndarray, sizes: np.ndarray) -> list[list[int]]:
    """Groups of texts with equal letters, or with sketches that agree."""
    needed = np.where(sizes < LONG, SIMILARITY_OF_SHORT, SIMILARITY)
    parents = np.arange(len(digests))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = int(parents[number])
        return number

    for left, right in _candidates(sketches, digests):
        for start in range(0, len(left), _PAIRS):
            a, b = left[start : start + _PAIRS], right[start : start + _PAIRS]
            enough = np.maximum(needed[a], needed[b])
            alike = (digests[a] == digests[b]) | (_similarity(sketches[a], sketches[b]) >= enough)
            for one, other in zip(a[alike].tolist(), b[alike].tolist(), strict=True):
                parents[root(one)] = root(other)
    groups: dict[int, list[int]] = {}
    for number in range(len(digests)):
        groups.setdefault(root(number), []).append(number)
    return [members for members in groups.values() if len(members) > 1]


def _candidates(sketches: np.ndarray, digests: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Pairs of texts with the same letters, then those that agree in one band after the other.

    Among many that agree, each is compared with the one before it and with the first, in the order of their digests,
    which does not depend on the order of the texts.
    """
    yield _neighbours(digests, digests)
    for start in range(0, BINS, ROWS):
        band = sketches[:, start : start + ROWS]
        full = np.flatnonzero((band != _EMPTY).all(axis=1))
        keys = np.zeros(len(full), np.uint64)
        for column in range(ROWS):
            keys = _mix(keys + band[full, column] + np.uint64(1))
        for left, right in (_neighbours(keys, digests[full]), _first_of_each(keys, digests[full])):
            yield full[left], full[right]


def _neighbours(keys: np.ndarray, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((digests, keys))
    same = keys[order][1:] == keys[order][:-1]
    return order[:-1][same], order[1:][same]


def _first_of_each(keys: np.ndarray, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((digests, keys))
    _, begins, counts = np.unique(keys[order], return_index=True, return_counts=True)
    firsts = np.repeat(begins, counts)
    others = np.arange(len(keys)) > firsts
    return order[firsts[others]], order[np.flatnonzero(others)]


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(pairs,) part of the bins that agree, of those that are filled in either sketch."""
    filled = (a != _EMPTY) | (b != _EMPTY)
    agree = (a == b) & filled
    return agree.sum(axis=1) / np.maximum(filled.sum(axis=1), 1)
