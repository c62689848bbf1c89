"""The continuous cache against its definition at each position, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxlm.ops.continuous_cache import cache_log_probs

WIDTH, FLATNESS = 5, np.array([0.0, 0.3, 2.0], np.float32)


def log_prob_by_definition(hidden, words, flatness, t):
    """Return the log-probability of the word after position t, by the definition."""
    first = max(0, t - WIDTH)
    weights = np.exp(flatness * (hidden[first:t] @ hidden[t]))
    share = weights[words[first:t] == words[t]].sum() / weights.sum() if t else 0.0
    return np.log(share) if share else -np.inf


@pytest.mark.parametrize("chunk", [1, 3, 7, 12])
def test_chunks_of_any_length_match_the_definition(chunk):
    rng = np.random.default_rng(0)
    hidden, words = rng.normal(size=(12, 4)), rng.integers(0, 3, 12)
    memory, before, filled = np.zeros((WIDTH, 4)), np.zeros(WIDTH, int), 0
    found = []
    for start in range(0, 12, chunk):
        part, next_words = hidden[start : start + chunk], words[start : start + chunk]
        arrays = part, next_words, memory, before, filled, FLATNESS
        found.append(cache_log_probs(*map(jnp.asarray, arrays)))
        memory = np.concatenate([memory, part])[-WIDTH:]
        before = np.concatenate([before, next_words])[-WIDTH:]
        filled = min(WIDTH, filled + len(part))
    found = np.concatenate(found, axis=1)
    expected = [[log_prob_by_definition(hidden, words, f, t) for t in range(12)] for f in FLATNESS]
    assert np.isneginf(found[:, 0]).all()
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_flatness_zero_counts_the_recent_words():
    words = jnp.asarray([0, 1, 0, 0, 2, 0])
    hidden = jnp.ones((6, 2))
    arguments = jnp.zeros((WIDTH, 2)), jnp.zeros(WIDTH, int), jnp.int32(0), jnp.zeros(1)
    found = cache_log_probs(hidden, words, *arguments)
    assert_allclose(np.exp(found[0]), [0, 0, 1 / 2, 2 / 3, 0, 3 / 5], rtol=1e-6)
