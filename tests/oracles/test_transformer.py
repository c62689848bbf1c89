"""The Transformer against its equations in float64 NumPy."""

import jax
import numpy as np
import pytest
from cases import SIZES, B, V, build, hidden, tokens
from numpy.testing import assert_allclose, assert_array_equal

from jaxlm.errors import SettingError


def norm(h, params):
    centred = h - h.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * params["scale"] + params["bias"]


def affine(x, params):
    return x @ params["kernel"] + params["bias"]


def attention(h_TH, params, model):
    """Return the output of attention at each position of a row, query by query and head by head."""
    heads, n_step = model.num_heads, model.n_step
    q_TA, k_TA, v_TA = np.split(affine(norm(h_TH, params["norm"]), params["qkv"]), 3, axis=-1)
    d = q_TA.shape[1] // heads
    result_TA = np.empty_like(q_TA)
    for t in range(len(h_TH)):
        seen = np.arange(max(0, t - n_step + 1), t + 1)
        for j in range(1, heads + 1):
            part = slice((j - 1) * d, j * d)
            s = k_TA[seen, part] @ q_TA[t, part] / np.sqrt(d) - 2 ** (-8 * j / heads) * (t - seen)
            weights = np.exp(s) / np.exp(s).sum()
            result_TA[t, part] = weights @ v_TA[seen, part]
    return affine(result_TA, params["outer"])


def by_the_equations(params, tokens_T, model):
    p = jax.tree.map(np.float64, params)
    table_VD = p["embedding"]["embedding"]
    h_TH = np.sqrt(table_VD.shape[1]) * table_VD[tokens_T]
    if "first" in p:
        h_TH = affine(h_TH, p["first"])
    for index in range(model.num_layers):
        layer = p[f"layers_{index}"]
        h_TH = h_TH + attention(h_TH, layer["attention"], model)
        part = layer["feed_forward"]
        inner = np.maximum(affine(norm(h_TH, part["norm"]), part["inner"]), 0)
        h_TH = h_TH + affine(inner, part["outer"])
    return norm(h_TH, p["norm"])


@pytest.mark.parametrize(
    ("options", "time"),
    [
        # Sizes that are not multiples of the number of heads, and texts of several windows.
        ({}, 7),
        ({"num_layers": 1, "num_heads": 3, "embedding_size": 5, "n_step": 2}, 6),
        ({"num_layers": 3, "num_heads": 1, "n_step": 5}, 13),
        # A text shorter than the window.
        ({"hidden_size": 8, "embedding_size": 8, "num_heads": 4, "n_step": 9}, 8),
    ],
    ids=str,
)
def test_hidden_states_equal_the_equations(options, time):
    model, params = build("transformer", options)
    tokens_BT = tokens(time=time)
    found_BTH, _ = hidden(model, params, tokens_BT)
    assert ("first" in params) == (model.embedding_size != model.hidden_size)
    for row in range(B):
        assert_allclose(found_BTH[row], by_the_equations(params, tokens_BT[row], model), atol=1e-5)


def test_the_cache_holds_keys_and_values_of_the_last_positions():
    model, params = build("transformer", {"num_layers": 1})
    _, (tokens_BN, ((key_BNA, value_BNA),)) = hidden(model, params, tokens())
    assert_array_equal(tokens_BN, tokens()[:, -2:])
    p = jax.tree.map(np.float64, params)
    words = p["embedding"]["embedding"][tokens()[:, -2:]] * np.sqrt(SIZES["embedding_size"])
    part = p["layers_0"]["attention"]
    qkv = affine(norm(affine(words, p["first"]), part["norm"]), part["qkv"])
    _, expected_key, expected_value = np.split(qkv, 3, axis=-1)
    assert_allclose(key_BNA, expected_key, atol=1e-5)
    assert_allclose(value_BNA, expected_value, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_prediction_depends_only_on_its_window(layers):
    model, params = build("transformer", {"num_layers": layers})
    assert model.window == 2 * layers + 1
    tokens_BT = tokens(time=12)
    before_BTH, _ = hidden(model, params, tokens_BT)
    for distance in (model.window - 1, model.window):
        changed_BT = tokens_BT.copy()
        changed_BT[:, -1 - distance] = (changed_BT[:, -1 - distance] + 1) % V
        after_BTH, _ = hidden(model, params, changed_BT)
        differs = np.abs(after_BTH[:, -1] - before_BTH[:, -1]).max() > 0
        assert differs == (distance < model.window)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_step": 1}, "`n_step` 1: must be from 2 to"),
        ({"num_heads": 0}, "`num_heads` 0: must be at least 1"),
        ({"inner_size": 0}, "`inner_size` 0: must be at least 1"),
        ({"hidden_size": 0}, "`hidden_size` 0: must be at least 1"),
    ],
)
def test_bad_sizes_are_errors(options, message):
    with pytest.raises(SettingError, match=message):
        build("transformer", options)
