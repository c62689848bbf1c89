"""The Mogrifier LSTM against its paper's equations in float64 NumPy."""

import jax
import numpy as np
import pytest
from cases import B, T, build, hidden, tokens
from numpy.testing import assert_allclose

from jaxlm.errors import UserError


def sigmoid(s):
    return 1 / (1 + np.exp(-s))


def by_the_paper(params, options, size):
    layer = jax.tree.map(np.float64, params["layers_0"])
    words_BTD = np.float64(params["embedding"]["embedding"])[tokens()]
    h, c, states = np.zeros((B, size)), np.zeros((B, size)), []

    def matrix(number):
        rounds = layer["rounds"]
        if options["rank"]:
            return rounds[f"{number}_left"] @ rounds[f"{number}_right"]
        return rounds[str(number)]

    for t in range(T):
        x = words_BTD[:, t]
        for number in range(1, options["rounds"] + 1):
            if number % 2:
                x = 2 * sigmoid(h @ matrix(number)) * x
            else:
                h = 2 * sigmoid(x @ matrix(number)) * h
        gates = x @ layer["input"]["kernel"] + layer["input"]["bias"]
        i, f, g, o = np.split(gates + h @ layer["recurrent"]["kernel"], 4, axis=-1)
        i, f = sigmoid(i), sigmoid(f)
        i = np.minimum(i, 1 - f) if options["capped"] else i
        c = f * c + i * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 5, "rank": 0, "capped": True},
        {"rounds": 4, "rank": 3, "capped": False},
        {"rounds": 1, "rank": 0, "capped": True},
    ],
    ids=str,
)
def test_hidden_states_equal_the_paper_s_equations(options):
    model, params = build("mogrifier", options, hidden_size=4)
    found, _ = hidden(model, params, tokens())
    assert_allclose(found, by_the_paper(params, options, 4), atol=2e-6)


def test_without_rounds_it_is_an_lstm():
    model, params = build("mogrifier", {"rounds": 0, "capped": False})
    lstm, _ = build("lstm", {})
    assert_allclose(
        hidden(model, params, tokens())[0], hidden(lstm, params, tokens())[0], atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [({"rounds": -1}, "`rounds` -1"), ({"rank": -2}, "`rank` -2"), ({"remat": 4}, "`remat` 4")],
)
def test_bad_settings_are_errors(options, named):
    with pytest.raises(UserError, match=named):
        build("mogrifier", options)
