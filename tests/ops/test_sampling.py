"""Categorical draws: as often as the probabilities say, and never what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.sampling import categorical, uniforms

DRAWS = 20_000


def drawn(seed, logits_BV):
    (uniform_2B,) = uniforms(jax.random.key(seed), 1, len(logits_BV))
    return categorical(uniform_2B, logits_BV)


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 16, 23, 101])
def test_frequencies(vocab_size):
    logits_V = jnp.asarray(np.random.default_rng(vocab_size).normal(0, 2, vocab_size), jnp.float32)
    drawn_B = drawn(1, jnp.tile(logits_V, (DRAWS, 1)))
    assert drawn_B.dtype == jnp.int32 and drawn_B.shape == (DRAWS,)
    found_V = np.bincount(np.asarray(drawn_B), minlength=vocab_size)
    expected_V = DRAWS * np.asarray(jax.nn.softmax(logits_V), np.float64)
    # Five standard deviations of a count.
    assert (np.abs(found_V - expected_V) <= 5 * np.sqrt(expected_V) + 1).all()


def test_rows_are_drawn_apart():
    # Each row has one word that can be, another one in each row: blocks of zeros before and after.
    logits_BV = jnp.where(jnp.eye(30, dtype=bool), 3.0, -jnp.inf)
    for seed in range(20):
        drawn_B = drawn(seed, logits_BV)
        np.testing.assert_array_equal(drawn_B, np.arange(30))


def test_what_cannot_be_is_never_drawn():
    possible_V = np.random.default_rng(0).random(1000) < 0.01
    logits_V = jnp.where(possible_V, 0.0, -jnp.inf)
    drawn_B = np.asarray(drawn(2, jnp.tile(logits_V, (DRAWS, 1))))
    assert possible_V[drawn_B].all()
    assert set(drawn_B) == set(np.flatnonzero(possible_V))


def test_large_logits_and_low_precision():
    logits_BV = jnp.asarray([[1e4, -1e4, 1e4 - 200]], jnp.bfloat16)
    assert drawn(0, logits_BV).tolist() == [0]
