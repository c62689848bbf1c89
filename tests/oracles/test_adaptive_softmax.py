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


def test_log_probs_equal_the_definition():
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
def test_log_probs_of_tied_words_equal_the_definition(hidden_size):
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


def test_adaptive_input_equals_the_definition():
    """The features of a word depend on its cluster, and a tied output uses the same tables."""
    options = {"softmax": "adaptive", "cutoffs": CUTOFFS, "tied": True, "adaptive_input": True}
    model, params = build("lstm", options, embedding_size=20, hidden_size=8)
    table = jax.tree.map(np.float64, params["embedding"])
    assert table["table_1"].shape == (5, 5) and table["table_2"].shape == (V - 9, 1)
    words_VD = np.concatenate(
        [
            table["table_0"],
            table["table_1"] @ table["project_1"],
            table["table_2"] @ table["project_2"],
        ]
    )
    # A model with a single table of the same features.
    whole, whole_params = build("lstm", {}, embedding_size=20, hidden_size=8)
    same = params | {"embedding": {"embedding": np.float32(words_VD)}}
    same["output"] = whole_params["output"]
    hidden_BTF, _ = model.apply({"params": params}, tokens())
    expected_BTF, _ = whole.apply({"params": same}, tokens())
    assert_allclose(hidden_BTF, expected_BTF, atol=1e-5)

    found = model.apply({"params": params}, hidden_BTF, method="logits")
    output = jax.tree.map(np.float64, params["output"])
    h = np.float64(hidden_BTF) @ output["project"]
    clusters = h @ output["head"]["clusters"]
    head = log_softmax(
        np.concatenate([h @ table["table_0"].T, clusters], axis=-1) + output["head"]["bias"]
    )
    expected = [head[..., :4]]
    for index in (1, 2):
        tail = output[f"tail_{index}"]
        inside = log_softmax(h @ tail["reduce"] @ table[f"table_{index}"].T + tail["bias"])
        expected.append(head[..., 3 + index, None] + inside)
    assert_allclose(found, np.concatenate(expected, axis=-1), atol=1e-5)


@pytest.mark.full
def test_initial_features_of_rare_and_frequent_words_are_equally_large():
    options = {"softmax": "adaptive", "cutoffs": (600, 1200), "adaptive_input": True}
    for init_scale in (None, 0.1):
        model = LSTM(vocab_size=1800, embedding_size=64, init_scale=init_scale, **options)
        table = init_params(model, jax.random.key(0))["embedding"]
        sizes = [np.std(table["table_0"])]
        sizes += [np.std(table[f"table_{k}"] @ table[f"project_{k}"]) for k in (1, 2)]
        assert_allclose(sizes, sizes[0], rtol=0.3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"softmax": "adaptive", "cutoffs": (9, 4)}, "`cutoffs` 9,4"),
        ({"softmax": "adaptive", "cutoffs": (4, V)}, "`cutoffs` 4,13"),
        ({"softmax": "adaptive", "cutoffs": (0, 5)}, "`cutoffs` 0 5: each must be at least 1"),
        ({"softmax": "sampled", "sampled_words": 0}, "`sampled_words` 0"),
        ({"sampled_words": -1}, "`sampled_words` -1"),  # also where it has no effect
        ({"softmaxes": 0}, "`softmaxes` 0"),
        ({"cutoffs": (5, 2)}, "`cutoffs` 5,2"),
        ({"softmax": "adaptiv"}, "did you mean 'adaptive'"),
        ({"adaptive_input": True}, "`adaptive_input`.*`softmax` adaptive, not full"),
        ({"softmax": "adaptive", "cutoffs": (9, 4), "adaptive_input": True}, "`cutoffs` 9,4"),
    ],
)
def test_bad_settings_are_errors(options, named):
    model = LSTM(vocab_size=V, embedding_size=5, hidden_size=5, **options)
    with pytest.raises(UserError, match=named):
        init_params(model, jax.random.key(0))
