"""Every number of every setting: it is refused in one line before anything is written, or works."""

import dataclasses
import json
import math

import pytest
import tiny_runs

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.models.neural import param_shapes
from jaxlm.models.registry import MODELS, make_model
from jaxlm.ranges import Range, Rate, check_settings, checked, kinds_of
from jaxlm.training.config import SECTIONS, RunConfig
from jaxlm.training.fit import fit

VALUES = {"nan": math.nan, "inf": math.inf, "-1": -1, "0": 0, "huge": 10**12, "text": "abc"}
# Sizes that make a model small, where it has them.
SMALL = {
    "embedding_size": 3,
    "hidden_size": 3,
    "inner_size": 3,
    "num_layers": 1,
    "n_step": 3,
    "order": 2,
}
# One model of each class; the other recurrent models have the settings of the LSTM.
TRAINED = ("ngram", "nplm", "modern-nplm", "transformer", "lstm", "mogrifier")
SHORT = {"batch_size": 4, "bptt": 5, "steps": 1}


def model_settings_of(name):
    return [f"{name}:{setting}" for setting in MODELS[name].settings]


def section_settings():
    sections = {section for kind in SECTIONS.values() for section in kind.values()}
    return sorted({item.name for section in sections for item in dataclasses.fields(section)})


def small(name):
    own = MODELS[name].settings
    return {setting: value for setting, value in SMALL.items() if setting in own}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return jaxlm.read_corpus(tiny_runs.write_text(tmp_path_factory.mktemp("text") / "a.txt", 40, 9))


def values_of(kind):
    """Return the values to try. For a field that is a tuple, each value is in a tuple."""
    return [(value,) if "tuple" in str(kind) else value for value in VALUES.values()]


@pytest.mark.parametrize("which", [s for name in TRAINED for s in model_settings_of(name)])
def test_a_setting_of_a_model_is_refused_or_the_model_can_be_built(which):
    name, setting = which.split(":")
    for value in values_of(kinds_of(MODELS[name].kind)[setting]):
        try:
            model = make_model(name, small(name) | {setting: value}, 50, 0)
            if name != "ngram":
                param_shapes(model)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.full
@pytest.mark.parametrize(
    "which",
    [
        which
        for name in TRAINED
        for which in model_settings_of(name)
        # The mogrifier has the settings of the LSTM and its own.
        if name != "mogrifier" or which.replace(name, "lstm") not in model_settings_of("lstm")
    ],
)
def test_a_setting_of_a_model_is_refused_or_trains_a_step(which, text, tmp_path):
    name, setting = which.split(":")
    vocabulary = text.vocabulary
    default = MODELS[name].settings[setting]
    for number, value in enumerate(values_of(kinds_of(MODELS[name].kind)[setting])):
        if value == default:
            continue
        folder = tmp_path / str(number)
        try:
            settings = small(name) | {setting: value}
            model = make_model(name, settings, len(vocabulary), vocabulary.start_id)
            fit(model, text, folder=folder, quiet=True, **({} if name == "ngram" else SHORT))
        except UserError as error:
            assert "\n" not in str(error) and not folder.exists()


@pytest.mark.parametrize("setting", section_settings())
def test_a_setting_of_a_section_is_refused_in_one_line_with_its_name(setting):
    refused = 0
    # A model ignores the settings that only other models have.
    for name in ("rnn", "ngram"):
        for value in (math.nan, math.inf, -1, 10**12, 10**400, "abc", None, [[1]]):
            config = RunConfig.default(name)
            try:
                config = config.with_options({setting: value}, "the test")
                config.check_ranges()
            except UserError as error:
                assert "\n" not in str(error) and setting in str(error)
                refused += 1
    assert refused


NUMBERS = {
    "beta1": (2, -1, 1, math.nan),
    "beta2": (2, -1, 1 - 1e-12, math.nan),
    "epsilon": (-1, 0, math.nan, math.inf),
    "lr": (-1, 0, math.nan, math.inf, 1e300),
    "decay": (-1, 0, 2, math.nan),
    "clip": (-1, 0, math.nan, math.inf),
    "weight_decay": (-1, math.nan, math.inf),
    "ema_decay": (0, 1, math.nan),
    "trigger_after": (0, -1),
    "warmup_steps": (-1, 10**12),
    "full_epochs": (-1, 10**12),
    "plateau_patience": (0, -1),
    "drop_state": (1, -1, math.nan),
    "batch_size": (0, -1, 10**12),
    "bptt": (0, -1, 10**12),
    "epochs": (0, -1, math.nan, math.inf, 1e300, 1e30),
    "steps": (0, -1, 1 << 31),
    "max_minutes": (0, -1, math.nan, math.inf),
    "log_every": (0, -1),
    "eval_every": (0, -1),
    "patience": (0, -1),
    "checkpoint_every": (0, -1),
    "checkpoint_minutes": (0, -1, math.nan),
    "keep": (0, -1),
    "seed": (-1, 1 << 32, 1 << 64, 1 << 100),
}


@pytest.mark.parametrize("name", list(NUMBERS))
def test_a_number_out_of_range_is_refused_before_anything_is_written(name, text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    average = {"ema_decay": "ema", "trigger_after": "triggered"}.get(name, "none")
    for value in NUMBERS[name]:
        with pytest.raises(SettingError, match=f"^`{name}` .*: (must be|makes)"):
            options = {"quiet": True, "average": average, name: value}
            jaxlm.fit(model, text, folder=tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_different_seeds_are_different_runs(text):
    """JAX reads 32 bits of a seed."""
    model = tiny_runs.make(jaxlm.RNN, text, embedding_size=2, hidden_size=2)
    low, high = (
        jaxlm.fit(model, text, quiet=True, seed=seed, **SHORT) for seed in (0, (1 << 32) - 1)
    )
    assert (low.params["embedding"]["embedding"] != high.params["embedding"]["embedding"]).any()
    with pytest.raises(SettingError, match="`seed` 4294967296: must be from 0 to 4,294,967,295"):
        jaxlm.fit_many(model, text, quiet=True, seeds=2, seed=(1 << 32) - 1, **SHORT)


@pytest.mark.quick_for("sizes0")
@pytest.mark.parametrize(
    "sizes",
    [{"hidden_size": 10**9}, {"embedding_size": 10**9}, {"hidden_size": 50_000, "num_layers": 40}],
)
def test_a_model_larger_than_the_memory_is_refused(sizes, text, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxlm.models.layers.host_memory", lambda: 10**11)
    monkeypatch.setattr("jaxlm.training.loop.devices_memory", lambda: 10**11)
    model = jaxlm.LSTM(len(text.vocabulary), 0, **sizes)
    with pytest.raises(UserError, match=r"take [\d,.]+ GB, more than the 100.0 GB of memory"):
        jaxlm.fit(model, text, folder=tmp_path / "run", quiet=True, **SHORT)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"length": 10**9, "samples": 10**6}, {"samples": 10**12}])
def test_samples_larger_than_the_memory_are_refused(options, text):
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    run = jaxlm.fit(model, text, quiet=True)
    with pytest.raises(UserError, match=r"more than the .* memory|must be at least 1 and at most"):
        jaxlm.sample(run, "", **options)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ({"lr": "abc"}, "`lr` 'abc': must be a number"),
        ({"lr": None}, "`lr` None: must be a number"),
        ({"batch_size": 1.5}, "`batch_size` 1.5: must be an integer"),
        ({"optimizer": {"lr": {"a": [1]}}}, "`lr` {'a': [1]}: must be a number"),
        ({"layer_sizes": [[3], 4]}, "`layer_sizes` ((3,), 4): must be a list"),
        ({"layer_sizes": [0]}, "`layer_sizes` (0,)|`layer_sizes` 0"),
        ({"optimizer": 5}, "`optimizer` 5: must be a text"),
        ({"beta1": 2}, "`beta1` 2: must be at least 0 and below 1"),
        ([1, 2], "holds a list"),
        (None, "holds a NoneType"),
        (3, "holds a int"),
    ],
)
def test_a_config_file_with_wrong_values_is_one_line(content, fragment, tmp_path, monkeypatch):
    from jaxlm.commands.settings import default_config

    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        default_config("lstm", None, path, "toy").check_ranges()
    assert any(part in str(error.value) for part in fragment.split("|"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text_of_file", ["[" * 100_000, "[" * 50 + "]" * 50, "{", "\x00"])
def test_a_config_file_that_is_damaged_is_one_line(text_of_file, tmp_path):
    from jaxlm.commands.settings import default_config

    (tmp_path / "c.json").write_text(text_of_file)
    with pytest.raises(UserError, match=r"c\.json: (is not JSON|c\.json is nested)"):
        default_config("lstm", None, tmp_path / "c.json", "toy")


def test_ranges():
    assert 0.5 in Range(0, below=1) and 1 not in Range(0, below=1)
    assert math.nan not in Range() and math.inf not in Range() and 1e39 not in Range()
    assert 10**400 not in Range(1) and (1 << 31) not in Range(1) and (1 << 31) in Range(1, 1 << 40)
    assert 1e-60 not in Range(above=0)
    assert Range(1, 20).why(0) == "must be from 1 to 20"
    assert Range(1).why(1 << 40) == "must be at least 1 and at most 2,147,483,647"
    assert checked("dropout", 0, Rate) == 0
    with pytest.raises(SettingError, match="`dropout` True: must be a number"):
        checked("dropout", True, Rate)


def test_a_traced_setting_is_not_checked(text):
    """A rate is an array of JAX in a sweep."""
    import jax.numpy as jnp

    check_settings(jaxlm.RNN(7, dropout=jnp.float32(2)))
