"""The modern NPLM and the deep NPLM against their equations in float64 NumPy."""

import jax
import numpy as np
import pytest
from cases import START, B, T, build, hidden, tokens
from numpy.testing import assert_allclose

from jaxlm.errors import UserError


def norm(h, params):
    centred = h - h.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * params["scale"] + params["bias"]


def affine(x, params):
    return x @ params["kernel"] + params["bias"]


def test_the_modern_nplm_equals_its_equations():
    n, windows, size = 3, 2, 2
    model, params = build("modern-nplm", {"num_layers": 2})
    drawn = np.random.default_rng(0).normal(size=(windows, size)).astype(np.float32)
    params = {**params, "far": {"weights": drawn}}
    found, _ = hidden(model, params, tokens())
    p = jax.tree.map(np.float64, params)
    words = p["embedding"]["embedding"]
    expected = np.empty(found.shape)
    for b in range(B):
        for t in range(T):
            before = [START] * 10 + list(tokens()[b, : t + 1])
            parts = [words[id_] for id_ in before[-n:]]
            for f in range(windows):
                # s = 0 is the nearest word of a window, f = 0 the nearest window.
                places = [-1 - n - f * size - s for s in range(size)]
                far = [a * words[before[at]] for a, at in zip(drawn[f], places, strict=True)]
                parts.append(np.sum(far, axis=0))
            h = affine(np.concatenate(parts), p["first"])
            for layer in ("layers_0", "layers_1"):
                inner = np.maximum(affine(norm(h, p[layer]["norm"]), p[layer]["inner"]), 0)
                h = h + affine(inner, p[layer]["outer"])
            expected[b, t] = norm(h, p["norm"])
    assert_allclose(found, expected, atol=1e-5)


def test_the_deep_nplm_equals_its_equations():
    options = {"num_layers": 3, "residual": True, "layer_norm": True}
    model, params = build("nplm", options)
    found, _ = hidden(model, params, tokens())
    p = jax.tree.map(np.float64, params)
    words = p["embedding"]["embedding"]
    seen = np.concatenate([np.full((B, 2), START), tokens()], axis=1)
    x = np.concatenate([words[seen[:, n : n + T]] for n in range(3)], axis=-1)
    a = np.tanh(affine(x, p["hidden"]))
    for index in (1, 2):
        a = a + np.tanh(affine(norm(a, p[f"norms_{index - 1}"]), p[f"hidden_{index}"]))
    assert_allclose(found, norm(a, p["norms_2"]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("modern-nplm", {"far_windows": -1}, "`far_windows` -1"),
        ("modern-nplm", {"inner_size": 0}, "`inner_size` 0"),
        ("nplm", {"hidden_size": 0, "direct": True, "num_layers": 2}, "`hidden_size` 0"),
    ],
)
def test_bad_settings_are_errors(name, options, named):
    with pytest.raises(UserError, match=named):
        build(name, options)
