"""`find_units` finds a planted unit first, and its numbers are Pearson's correlations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import build
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.data.tokenizers import Characters, Words
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.errors import UserError
from jaxlm.inspection import FEATURES, find_units, trace
from jaxlm.inspection.units import bracket_depth, correlations, inside_quotes

TEXT = "he said “no, no” and “(yes)” (and\n went) “home”, or not\n" * 3
PLANTED = 3
SIZE = 6
CHARACTERS = tuple(dict.fromkeys(TEXT))


def character_run(model, params):
    return jaxlm.Run(model, params, Characters(Vocabulary(CHARACTERS, start="\n")))


def planted_run():
    """Return an LSTM with random weights, but a unit whose cell state is 1 inside quotes.

    Its input gate opens at both marks, where its forget gate closes. The new value is 1 at the
    opening mark, and 0 at the closing mark.
    """
    count = len(CHARACTERS)
    model = jaxlm.LSTM(count, CHARACTERS.index("\n"), embedding_size=count, hidden_size=SIZE)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda a: generator.normal(0, 0.5, a.shape).astype("f"), shapes)
    params["embedding"]["embedding"] = np.eye(count, dtype="f")
    opening, closing = CHARACTERS.index("“"), CHARACTERS.index("”")
    kernel, bias = params["layers_0"]["input"]["kernel"], params["layers_0"]["input"]["bias"]
    i, f, g = (gate * SIZE + PLANTED for gate in range(3))
    for column in (i, f, g):
        kernel[:, column], bias[column] = 0, 0
        params["layers_0"]["recurrent"]["kernel"][:, column] = 0
    bias[i], kernel[[opening, closing], i] = -20, 40
    bias[f], kernel[[opening, closing], f] = 20, -40
    kernel[opening, g] = 20
    return character_run(model, jax.tree.map(jnp.asarray, params))


def test_a_planted_unit_is_found_first():
    found = find_units(planted_run(), TEXT, "inside quotes", top=3)
    assert found[0][:2] == ("layers_0/c", PLANTED)
    assert found[0].correlation == pytest.approx(1, abs=1e-5)
    assert abs(found[1].correlation) < 0.99 or found[1].unit == PLANTED
    # A unit that follows the opposite is found too.
    opposite = find_units(planted_run(), TEXT, lambda text: 1 - inside_quotes(text), top=1)
    assert opposite[0][:2] == ("layers_0/c", PLANTED)
    assert opposite[0].correlation == pytest.approx(-1, abs=1e-5)


def test_correlations_are_those_of_numpy_in_any_chunks():
    run = planted_run()
    found = trace(run, TEXT)
    features = {
        "depth": bracket_depth,
        "quotes": inside_quotes,
        "never": lambda text: [7] * len(text),
    }
    whole, parts = correlations(run, TEXT, features), correlations(run, TEXT, features, chunk=17)
    assert set(whole) == {"depth", "quotes"}
    for name, function in (("depth", bracket_depth), ("quotes", inside_quotes)):
        # The features that the output layer reads are the hidden state, which is listed once.
        assert set(whole[name]) == set(found.arrays) - {"hidden"}
        for array, values in whole[name].items():
            expected = [np.corrcoef(x, function(TEXT))[0, 1] for x in found[array].T.astype(float)]
            assert_allclose(values, expected, atol=1e-9)
            assert_allclose(values, parts[name][array], atol=1e-5)


def test_a_chunk_may_be_a_single_token():
    whole, parts = (
        find_units(planted_run(), TEXT[:30], "inside quotes", chunk=chunk) for chunk in (2048, 1)
    )
    assert [score.correlation for score in parts] == pytest.approx(
        [score.correlation for score in whole], abs=1e-5
    )


def test_a_unit_that_never_changes_comes_last_with_correlation_0():
    run = planted_run()
    params = jax.tree.map(np.array, run.params)
    params["embedding"]["embedding"][:] = 0
    params["layers_0"]["recurrent"]["kernel"][:] = 0
    # Without input all gates are constant; the states change in the first steps.
    scores = find_units(character_run(run.model, params), TEXT, "position in line", top=99)
    gates = [score for score in scores if score.name == "layers_0/input"]
    assert len(gates) == SIZE and all(score.correlation == 0 for score in gates)
    assert scores[-1].correlation == 0 and np.isfinite([score[2] for score in scores]).all()


def test_a_word_has_the_feature_of_its_last_character():
    model, params = build("nplm", {})
    words = tuple(f"w{index}" for index in range(model.vocab_size - 1))
    run = jaxlm.Run(model, params, Words(Vocabulary((*words, "<eos>"), start="<eos>")))
    line = "w1 w10 w3\nw2 w11 w0"
    (score,) = find_units(run, line, "position in line", top=1)
    found = trace(run, line)
    # The line break is <eos>.
    positions = [2, 6, 9, 0, 2, 6, 9]
    expected = np.corrcoef(found[score.name][:, score.unit], positions)[0, 1]
    assert score.correlation == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_a_feature_may_have_any_scale(scale):
    plain, scaled = (
        find_units(planted_run(), TEXT, feature, top=5)
        for feature in (inside_quotes, lambda text: scale * inside_quotes(text))
    )
    assert [score.correlation for score in scaled] == pytest.approx(
        [score.correlation for score in plain]
    )


BAD = {
    "no numbers": (lambda text: ["a"] * len(text), TEXT, "a list that is no array of numbers"),
    "nothing": (lambda text: None, TEXT, "array of shape"),
    "the same at every token": ("bracket depth", "“no” no", "'bracket depth' has the same value"),
    "unknown": ("inside quote", TEXT, "inside quotes"),
    "too short": (lambda text: [1.0], TEXT, "one number for each character"),
    "not finite": (lambda text: [np.nan] * len(text), TEXT, "not finite"),
    "empty text": ("upper case", "", "no token"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    feature, text, message = BAD[case]
    with pytest.raises(UserError, match=message) as raised:
        find_units(planted_run(), text, feature)
    assert "\n" not in str(raised.value)


def test_a_run_that_was_counted_has_no_units():
    model, params = build("ngram", {}, order=2)
    words = jaxlm.Vocabulary(tuple("abcdefghijkl\n"), start="\n")
    run = jaxlm.Run(model, params, Characters(words))
    with pytest.raises(UserError, match="trained by counting and has no units"):
        find_units(run, "abc", "position in line")


FOUND = {
    "inside quotes": ('a "b', [0, 0, 1, 1]),
    "bracket depth": (")(（a", [0, 1, 2, 2]),
    "position in line": ("a\nbc", [1, 0, 1, 2]),
    "after a comma": ("，a, \nb", [1, 0, 1, 1, 1, 0]),
    "upper case": ("AbÉ苹", [1, 0, 1, 0]),
    "inside a word": ("a, 苹1", [1, 0, 0, 1, 1]),
    "start of a word": ("ab c", [1, 0, 0, 1]),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_have_a_number_for_each_character(name):
    text, expected = FOUND[name]
    assert list(FEATURES[name](text)) == expected
    assert len(FEATURES[name]("")) == 0


def test_a_blank_line_closes_a_forgotten_quote():
    assert inside_quotes('"a\n\nb').tolist() == [1, 1, 1, 0, 0]
