"""The widths of a model for a number of parameters."""

import dataclasses
import json

import jax
import pytest

import jaxlm
from jaxlm.models import MODELS, make_model
from jaxlm.models.sizing import WIDTHS, parameter_count, read_count, sized

NEURAL = [name for name, entry in MODELS.items() if entry.kind.trained_by == "gradient"]


@pytest.mark.quick_for("lstm")
@pytest.mark.parametrize("name", NEURAL)
def test_the_widths_come_nearest_from_below(name):
    model = make_model(name, {}, 1000, 0)
    chosen = sized(model, 500_000)
    count = parameter_count(chosen)
    params = chosen.init(jax.random.key(0), jax.numpy.zeros((1, 2), int))["params"]
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert 0.95 * 500_000 < count <= 500_000
    widths = {w: getattr(model, w) for w in WIDTHS if hasattr(model, w)}
    found = {w: getattr(chosen, w) for w in widths}
    first = next(iter(widths))
    for width, before in widths.items():
        assert abs(found[width] - before * found[first] / widths[first]) <= 1
    # One unit more is too many.
    wider = {w: max(1, round((found[first] + 1) * b / widths[first])) for w, b in widths.items()}
    assert parameter_count(dataclasses.replace(chosen, **wider)) > 500_000


def test_a_width_that_is_fixed_keeps_its_value():
    model = jaxlm.LSTM(1000, embedding_size=32)
    chosen = sized(model, 200_000, fixed=["embedding_size"])
    assert chosen.embedding_size == 32 and 190_000 < parameter_count(chosen) <= 200_000


@pytest.mark.parametrize(
    ("params", "fixed", "message"),
    [
        (1000, (), "`params` 1000: the narrowest LSTM of this vocabulary has 3,0"),
        (9000, ("hidden_size", "embedding_size"), "leave out `hidden_size` or `embedding_size`"),
    ],
)
def test_impossible_numbers_are_refused(params, fixed, message):
    with pytest.raises(jaxlm.SettingError, match=message):
        sized(jaxlm.LSTM(1000), params, fixed)


@pytest.mark.parametrize("text", ["", "three", "3MB", "-3", "0", "3 M 4", "9" * 310])
def test_a_number_that_cannot_be_read_is_refused(text):
    with pytest.raises(jaxlm.SettingError, match="such as 3M or 250k"):
        read_count(text)


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf")])
def test_a_number_that_counts_nothing_is_refused(number):
    with pytest.raises(jaxlm.SettingError, match=r"`params` .* must be a number"):
        read_count(number)


def test_fit_takes_a_number_of_parameters(tmp_path):
    text = jaxlm.read_corpus("toy")
    model = jaxlm.LSTM(len(text.vocabulary))
    run = jaxlm.fit(model, text, params="20k", steps=1, batch_size=3, folder=tmp_path, quiet=True)
    assert 19_000 < parameter_count(run.model) <= 20_000
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["network"]["hidden_size"] == run.model.hidden_size < 200
    assert parameter_count(jaxlm.load(tmp_path).model) == parameter_count(run.model)
    with pytest.raises(jaxlm.SettingError, match="`params` 2000: a model that is counted"):
        jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, params=2000)
