"""The shuffle of windows is a permutation; any part of it is computed without storing the rest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.data.shuffling import shuffled


@settings(deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**32), number=st.integers(0, 1000))
def test_shuffled_is_a_permutation(size, seed, number):
    ranks = np.arange(size)
    order = shuffled(ranks, size, seed, number)
    np.testing.assert_array_equal(np.sort(order), ranks)
    # A part of the permutation, in another shape, is computed without the rest.
    part = ranks[size // 3 : size // 2 + 1].reshape(-1, 1)
    np.testing.assert_array_equal(shuffled(part, size, seed, number), order[part])


@pytest.mark.parametrize(
    "size", [edge + off for edge in (2, 4, 16, 64, 1024) for off in (-1, 0, 1)]
)
def test_shuffled_is_a_permutation_near_powers_of_two(size):
    np.testing.assert_array_equal(np.sort(shuffled(np.arange(size), size, 3, 4)), np.arange(size))


def test_shuffled_looks_random():
    size = 10_000
    ranks = np.arange(size)
    orders = [shuffled(ranks, size, seed, number) for seed in (0, 1) for number in (0, 1)]
    for index, order in enumerate(orders):
        # Rank and place, neighbours, and two orders are uncorrelated: r is about 0.01.
        assert abs(np.corrcoef(ranks, order)[0, 1]) < 0.05
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
        for other in orders[:index]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.05
            assert np.sum(order == other) < 15


def test_shuffled_works_for_large_texts():
    size = 10**12
    places = shuffled(np.arange(size - 1000, size), size, 0, 0)
    assert len(set(places.tolist())) == 1000
    assert places.min() >= 0
    assert places.max() < size
    assert np.ptp(places) > size // 2
