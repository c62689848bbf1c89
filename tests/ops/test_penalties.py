"""The penalties AR and TAR against their definitions."""

import jax
import numpy as np
from numpy.testing import assert_allclose

from jaxlm.ops.penalties import activation_penalty, temporal_penalty


def test_penalties_equal_numpy():
    hidden = np.asarray(jax.random.normal(jax.random.key(0), (3, 5, 4)))
    shares = np.full((3, 5), 1 / 15, np.float32)
    assert_allclose(activation_penalty(hidden, shares), np.mean(hidden**2), rtol=1e-6)
    changes = np.diff(hidden, axis=1) ** 2
    assert_allclose(temporal_penalty(hidden, shares), changes.sum() / (3 * 5 * 4), rtol=1e-6)


def test_positions_of_share_0_have_no_penalty():
    hidden = np.ones((2, 4, 3), np.float32)
    hidden[:, 2:] = 100
    shares = np.zeros((2, 4), np.float32)
    shares[:, :2] = 1
    assert_allclose(activation_penalty(hidden, shares), 4)
    assert_allclose(temporal_penalty(hidden, shares), 0)
