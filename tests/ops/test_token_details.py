"""The log-probability and the rank of a token, and the entropy, equal their definitions."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax

from jaxlm.ops import token_details as module
from jaxlm.ops.cpus import Constants
from jaxlm.ops.token_details import token_details


@pytest.mark.parametrize("size", [1, 3, 7, 2048])
def test_details_equal_the_definition_in_slices_of_any_size(monkeypatch, size):
    monkeypatch.setattr(module, "constants", lambda: Constants(words_without_gradient=size))
    rng = np.random.default_rng(0)
    logits_BTV = rng.normal(scale=20, size=(2, 3, 7)).astype(np.float32)
    # Two equal logits, and a token without probability.
    logits_BTV[..., 4] = logits_BTV[..., 5]
    logits_BTV[1, :, 2] = -np.inf
    targets_BT = np.array([[5, 0, 4], [2, 6, 1]])
    log_prob_BT, rank_BT, entropy_BT = jax.jit(token_details)(logits_BTV, targets_BT)
    expected_BTV = log_softmax(logits_BTV.astype(np.float64), axis=-1)
    target_BT1 = np.take_along_axis(expected_BTV, targets_BT[..., None], -1)
    assert_allclose(log_prob_BT, target_BT1[..., 0], rtol=1e-6, atol=1e-6)
    assert_array_equal(rank_BT, 1 + np.sum(expected_BTV > target_BT1, axis=-1))
    finite_BTV = np.where(np.isfinite(expected_BTV), expected_BTV, 0)
    assert_allclose(entropy_BT, -np.sum(np.exp(expected_BTV) * finite_BTV, axis=-1), atol=1e-5)
