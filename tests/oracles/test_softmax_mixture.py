"""The mixture of softmaxes against its definition in float64 NumPy."""

import jax
import numpy as np
import pytest
from cases import V, build, tokens
from numpy.testing import assert_allclose

from jaxlm.errors import UserError


def softmax(y):
    p = np.exp(y - y.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("tied", [False, True])
def test_log_probs_equal_the_definition(tied):
    model, params = build("gru", {"softmax": "mixture", "softmaxes": 3, "tied": tied})
    hidden_BTF, _ = model.apply({"params": params}, tokens())
    found = model.apply({"params": params}, hidden_BTF, method="logits")
    output = jax.tree.map(np.float64, params["output"])
    h = np.float64(hidden_BTF)
    latent = np.tanh(h @ output["latent"]["kernel"] + output["latent"]["bias"])
    words = np.float64(params["embedding"]["embedding"]).T if tied else output["kernel"]
    prior = softmax(h @ output["prior"])
    expected = sum(
        prior[..., k, None] * softmax(part @ words + output["bias"])
        for k, part in enumerate(np.split(latent, 3, axis=-1))
    )
    assert_allclose(np.exp(found), expected, atol=1e-6)
    assert_allclose(expected.sum(-1), 1)


def test_the_rank_of_log_probs_exceeds_the_number_of_features():
    """log P of a plain softmax has at most rank D + 1 (Yang et al. 2018); a mixture has more.

    The contexts are random.
    """
    ranks = {}
    for name in ("full", "mixture"):
        model, params = build("nplm", {"softmax": name, "softmaxes": 3, "hidden_size": 4})
        contexts = np.random.default_rng(0).normal(size=(1, 40, 4)).astype(np.float32) * 3
        logits = model.apply({"params": params}, contexts, method="logits")[0]
        log_probs = np.float64(jax.nn.log_softmax(logits))
        values = np.linalg.svd(log_probs, compute_uv=False)
        ranks[name] = int((values > 1e-4 * values[0]).sum())
    assert ranks["full"] <= 4 + 2 < ranks["mixture"] <= V


def test_bad_settings_are_errors():
    with pytest.raises(UserError, match="`softmaxes` 0"):
        build("nplm", {"softmax": "mixture", "softmaxes": 0})
