"""The adaptive softmax against its definition in float64 NumPy."""

import jax
import numpy as np
import pytest
from cases import V, build, tokens
from numpy.testing import assert_allclose

from jaxlm.errors import UserError
from jaxlm.models import LSTM
from jaxlm.training.state import init_params

CUTOFFS = (4, 9)


def log_softmax(y):
    y = y - y.max(-1, keepdims=True)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


def test_against_its_definition():
    model, params = build("lstm", {"softmax": "adaptive", "cutoffs": CUTOFFS}, hidden_size=20)
    hidden_BTF, _ = model.apply({"params": params}, tokens())
    found = model.apply({"params": params}, hidden_BTF, method="logits")
    output = jax.tree.map(np.float64, params["output"])
    h = np.float64(hidden_BTF)
    head = log_softmax(h @ output["head"]["kernel"] + output["head"]["bias"])
    expected = [head[..., :4]]
    for index in (1, 2):
        tail = output[f"tail_{index}"]
        assert tail["reduce"].shape == (20, 20 // 4**index)
        inside = log_softmax(h @ tail["reduce"] @ tail["kernel"] + tail["bias"])
        expected.append(head[..., 3 + index, None] + inside)
    expected = np.concatenate(expected, axis=-1)
    assert_allclose(found, expected, atol=1e-5)
    assert_allclose(np.exp(expected).sum(-1), 1)


@pytest.mark.parametrize("hidden_size", [6, 20], ids=["of one size", "projected"])
def test_tied_against_its_definition(hidden_size):
    options = {"softmax": "adaptive", "cutoffs": CUTOFFS, "tied": True}
    model, params = build("lstm", options, hidden_size=hidden_size)
    hidden_BTF, _ = model.apply({"params": params}, tokens())
    found = model.apply({"params": params}, hidden_BTF, method="logits")
    output = jax.tree.map(np.float64, params["output"])
    h, words_VD = np.float64(hidden_BTF), np.float64(params["embedding"]["embedding"])
    h = h @ output["project"] if hidden_size == 20 else h
    clusters = h @ output["head"]["clusters"]
    head = log_softmax(
        np.concatenate([h @ words_VD[:4].T, clusters], axis=-1) + output["head"]["bias"]
    )
    expected = [head[..., :4]]
    for index, (first, end) in enumerate([(4, 9), (9, V)], 1):
        inside = log_softmax(h @ words_VD[first:end].T + output[f"tail_{index}"]["bias"])
        expected.append(head[..., 3 + index, None] + inside)
    assert_allclose(found, np.concatenate(expected, axis=-1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"softmax": "adaptive", "cutoffs": (9, 4)}, "--cutoffs 9,4"),
        ({"softmax": "adaptive", "cutoffs": (4, V)}, "--cutoffs 4,13"),
        ({"softmax": "adaptive", "cutoffs": (0, 5)}, "--cutoffs 0,5"),
        ({"softmax": "sampled", "sampled_words": 0}, "--sampled-words 0"),
        ({"softmax": "adaptiv"}, "did you mean 'adaptive'"),
    ],
)
def test_what_cannot_be(options, named):
    model = LSTM(vocab_size=V, embedding_size=5, hidden_size=5, **options)
    with pytest.raises(UserError, match=named):
        init_params(model, jax.random.key(0))
