"""The shuffle of windows: a permutation of any size, any part of it, without storing it."""

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
    # Any part of it, in any shape, without the rest.
    part = ranks[size // 3 : size // 2 + 1].reshape(-1, 1)
    np.testing.assert_array_equal(shuffled(part, size, seed, number), order[part])


@pytest.mark.parametrize(
    "size", [edge + off for edge in (2, 4, 16, 64, 1024) for off in (-1, 0, 1)]
)
def test_shuffled_at_the_powers_of_two(size):
    np.testing.assert_array_equal(np.sort(shuffled(np.arange(size), size, 3, 4)), np.arange(size))


def test_shuffled_looks_random():
    size = 10_000
    ranks = np.arange(size)
    orders = [shuffled(ranks, size, seed, number) for seed in (0, 1) for number in (0, 1)]
    for index, order in enumerate(orders):
        # Rank and place, neighbours, and two orders say nothing of each other: r is about 0.01.
        assert abs(np.corrcoef(ranks, order)[0, 1]) < 0.05
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
        for other in orders[:index]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.05
            assert np.sum(order == other) < 15


def test_shuffled_far_into_a_large_text():
    size = 10**12
    places = shuffled(np.arange(size - 1000, size), size, 0, 0)
    assert len(set(places.tolist())) == 1000
    assert places.min() >= 0
    assert places.max() < size
    assert np.ptp(places) > size // 2
