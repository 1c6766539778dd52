"""The order of an epoch: a bijection, different for every seed and epoch, and statistically a shuffle (D-14)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from llmcore.data.permutation import Permutation


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 31, 33, 64, 1000, 8191, 100_003])
def test_bijection(size):
    order = Permutation(size, seed=3, epoch=1)[np.arange(size)]
    assert np.array_equal(np.sort(order), np.arange(size))


def test_single_positions_equal_the_whole():
    permutation = Permutation(10_007, 42, 0)
    order = permutation[np.arange(10_007)]
    assert [int(permutation[i]) for i in (0, 1, 5000, 10_006)] == order[[0, 1, 5000, 10_006]].tolist()


def test_the_order_is_fixed_for_ever():
    # A run that is resumed with a later version has to see the same data.
    assert Permutation(1000, 42, 0)[np.arange(8)].tolist() == [829, 167, 689, 688, 837, 409, 147, 956]
    assert Permutation(10**12, 7, 3)[np.arange(3)].tolist() == [469910230265, 499554659723, 647043443868]


def test_seeds_and_epochs_differ():
    orders = {(s, e): tuple(Permutation(100, s, e)[np.arange(100)]) for s in range(5) for e in range(5)}
    assert len(set(orders.values())) == 25


def test_every_order_of_four_comes_up_equally_often():
    counts = Counter(tuple(Permutation(4, 0, epoch)[np.arange(4)].tolist()) for epoch in range(4800))
    chi_square = sum((counts[order] - 200) ** 2 / 200 for order in counts) + 200 * (24 - len(counts))
    assert chi_square < 49.7  # 0.1 % quantile of chi-square with 23 degrees of freedom


def test_a_place_gets_every_element_equally_often():
    size, epochs = 100, 5000
    counts = np.zeros((3, size))
    for epoch in range(epochs):
        for row, element in enumerate(Permutation(size, 1, epoch)[np.array([0, 1, 99])]):
            counts[row, element] += 1
    chi_square = ((counts - epochs / size) ** 2 / (epochs / size)).sum(axis=1)
    assert (chi_square < 148.2).all()  # 0.1 % quantile, 99 degrees of freedom


def test_neighbours_are_uncorrelated():
    n = 100_000
    for size in (n, 10**9):
        order = Permutation(size, 5, 0)[np.arange(n)] / size
        for lag in (1, 2, 16):
            correlation = np.corrcoef(order[:-lag], order[lag:])[0, 1]
            assert abs(correlation) < 4 / np.sqrt(n), (size, lag)


def test_outside():
    with pytest.raises(IndexError):
        Permutation(10, 0, 0)[10]
    with pytest.raises(IndexError):
        Permutation(10, 0, 0)[np.array([0, -1])]
