"""Dropout masks: values, mean, and axes along which they are constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.ops.dropout import drop_words, dropout, keep_mask

KEY = jax.random.key(4)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.729, 0.999])
def test_a_mask_is_zero_at_its_rate_and_has_mean_one(rate):
    mask = np.asarray(keep_mask(KEY, (1000, 1000), rate))
    kept = mask[mask > 0]
    assert len(set(kept.tolist())) == 1
    # Five standard deviations of a million draws. The rate is rounded to a multiple of 1 / 65536.
    deviation = 5 * (rate * (1 - rate) / mask.size) ** 0.5
    assert_allclose(np.mean(mask == 0), rate, atol=deviation + 1e-5)
    assert_allclose(kept[0] * (1 - rate), 1, rtol=0.01)
    assert_allclose(mask.mean(dtype=np.float64), 1, atol=deviation / (1 - rate) + 1e-6)


def test_rate_zero_changes_nothing():
    x = jax.random.normal(KEY, (3, 4, 5))
    assert_array_equal(dropout(KEY, x, 0.0), x)


def test_the_mask_depends_only_on_the_key():
    x = jnp.ones((8, 8))
    assert_array_equal(dropout(KEY, x, 0.5), dropout(KEY, x, 0.5))
    assert (dropout(KEY, x, 0.5) != dropout(jax.random.key(5), x, 0.5)).any()


def test_the_mask_is_constant_along_shared_axes():
    dropped = np.asarray(dropout(KEY, jnp.ones((6, 7, 8)), 0.5, shared_axes=(1,)))
    assert (dropped == dropped[:, :1]).all()
    assert (dropped[0] != dropped[1]).any()


def test_a_dropped_word_is_dropped_at_all_its_positions():
    tokens = jnp.asarray([[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0]])
    words = jnp.ones((2, 8, 3))
    dropped = np.asarray(drop_words(KEY, words, tokens, 8, 0.5))
    assert (dropped == dropped[..., :1]).all()
    assert_array_equal(dropped[0], dropped[1][::-1])
    assert set(np.unique(dropped).tolist()) == {0.0, 2.0}


def test_dropping_keeps_the_dtype():
    assert dropout(KEY, jnp.ones((2, 2), jnp.bfloat16), 0.5).dtype == jnp.bfloat16
