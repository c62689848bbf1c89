"""Custom models, cells, optimizers, schedules and callbacks; plugins, saving and fine-tuning."""

import json
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
from cases import assert_trees_close
from jax.nn import sigmoid
from numpy.testing import assert_array_equal

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.models.cells import Cell
from jaxlm.models.registry import MODELS
from jaxlm.ngrams.config import CountingConfig
from jaxlm.training.config import RunConfig

OPTIONS = {"batch_size": 4, "bptt": 5, "steps": 6, "log_every": 2, "eval_every": 3}


class WideNPLM(jaxlm.NPLM):
    """An NPLM with another default and an additional setting."""

    hidden_size: int = 12
    slope: float = 2.0
    """Slope of the features."""

    def output_dropout(self, hidden_BTF, deterministic):
        return self.slope * hidden_BTF


class MGUCell(Cell):
    """The minimal gated unit (Zhou et al. 2016)."""

    gates = ("forget", "candidate")

    def activations(self, carry, x_BG, u_BG):
        (x_f, x_n), (u_f, u_n) = jnp.split(x_BG, 2, axis=-1), jnp.split(u_BG, 2, axis=-1)
        f = sigmoid(x_f + u_f)
        return {"forget": f, "candidate": jnp.tanh(x_n + f * u_n)}

    def update(self, carry, gates):
        return ((1 - gates["forget"]) * carry[0] + gates["forget"] * gates["candidate"],)


def test_a_registered_model_is_saved_loaded_and_resumed(registry, text, tmp_path):
    model = WideNPLM(len(text.vocabulary), text.vocabulary.start_id, embedding_size=4, slope=1.5)
    with pytest.raises(UserError, match=r"WideNPLM is not registered.*register_model"):
        tiny_runs.fit(model, text, tmp_path / "refused", **OPTIONS)
    assert not (tmp_path / "refused").exists()
    jaxlm.register_model("wide-nplm", WideNPLM)
    run = tiny_runs.fit(model, text, tmp_path / "run", **OPTIONS)
    loaded = jaxlm.load(tmp_path / "run")
    assert loaded.model.settings() == model.settings() and loaded.model.slope == 1.5
    tiny_runs.assert_same_arrays(run.params, loaded.params)
    again = tiny_runs.fit(model, text, tmp_path / "run", resume=True, **OPTIONS | {"steps": 8})
    assert again.settings["training"]["steps"] == 8
    with pytest.raises(UserError, match="'nplm' is taken"):
        jaxlm.register_model("nplm", WideNPLM)
    del MODELS["wide-nplm"]
    with pytest.raises(UserError, match=r"'wide-nplm', which is not registered"):
        jaxlm.load(tmp_path / "run")


@pytest.mark.full
def test_an_unregistered_model_trains_without_a_folder(text):
    model = WideNPLM(len(text.vocabulary), text.vocabulary.start_id, embedding_size=4)
    run = tiny_runs.fit(model, text, **OPTIONS)
    assert run.settings["model"] == "WideNPLM" and float(jaxlm.perplexity(run, "valid")) > 1


@pytest.mark.full
def test_a_registered_cell_is_saved_and_loaded(registry, text, tmp_path):
    sizes = {"embedding_size": 4, "hidden_size": 4}
    model = jaxlm.Recurrent(len(text.vocabulary), text.vocabulary.start_id, cell=MGUCell(), **sizes)
    with pytest.raises(UserError, match=r"Recurrent with MGUCell\(\) is not registered.*_cell"):
        tiny_runs.fit(model, text, tmp_path / "refused", **OPTIONS)
    jaxlm.register_cell("mgu", MGUCell())
    # Registering the same cell again is allowed, because notebooks run their cells repeatedly.
    jaxlm.register_cell("mgu", MGUCell())
    run = tiny_runs.fit(model, text, tmp_path / "run", **OPTIONS)
    assert run.settings["model"] == "mgu" and jaxlm.load(tmp_path / "run").model.cell == MGUCell()
    with pytest.raises(UserError, match="'gru' is taken by the cell GRUCell"):
        jaxlm.register_model("gru", jaxlm.Recurrent)
    with pytest.raises(UserError, match="'lstm' is taken"):
        jaxlm.register_cell("lstm", MGUCell())


PLUGIN = """
import jaxlm


class SlopedNPLM(jaxlm.NPLM):
    slope: float = 2.0
    '''Slope of the features.'''

    def output_dropout(self, hidden_BTF, deterministic):
        return self.slope * hidden_BTF


jaxlm.register_model("sloped", SlopedNPLM)
"""


def test_a_plugin_has_flags_and_is_saved(registry, train, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    argv = ("--plugin", plugin, "--model", "sloped", "--steps", 4, "--out", tmp_path / "run")
    code, _, err = train(*argv, "--slope", 3)
    assert code == 0, err
    settings = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
    assert settings["model"] == "sloped" and settings["network"]["slope"] == 3.0
    plugin.write_text("1 / 0", encoding="utf-8")
    code, _, err = train(*argv)
    assert code == 2 and "ZeroDivisionError" in err and "--plugin" in err
    code, _, err = train("--plugin", tmp_path / "none.py", "--model", "sloped")
    assert code == 2 and "does not exist" in err


@pytest.mark.full
def test_an_optax_optimizer_trains_like_the_named_optimizer(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    named = tiny_runs.fit(model, text, optimizer="sgd", lr=0.5, **OPTIONS)
    custom = tiny_runs.fit(model, text, tmp_path / "run", optimizer=optax.sgd(0.5), **OPTIONS)
    tiny_runs.assert_same_arrays(named.params, custom.params)
    assert custom.settings["optimizer"]["optimizer"] == "custom"
    # The run resumes only with the optimizer.
    longer = OPTIONS | {"steps": 8}
    resumed = tiny_runs.fit(
        model, text, tmp_path / "run", optimizer=optax.sgd(0.5), resume=True, **longer
    )
    assert resumed.settings["training"]["steps"] == 8
    with pytest.raises(SettingError, match="an optimizer of your own"):
        tiny_runs.fit(model, text, tmp_path / "run", optimizer="custom", resume=True, **longer)
    with pytest.raises(SettingError, match=r"`lr` 0\.1: belongs to the optimizer that you give"):
        tiny_runs.fit(model, text, optimizer=optax.sgd(0.5), lr=0.1, **OPTIONS)


@pytest.mark.full
def test_a_function_of_the_step_is_a_schedule(text):
    model = tiny_runs.make(jaxlm.RNN, text)
    options = OPTIONS | {"optimizer": "sgd"}
    whole = tiny_runs.fit(model, text, schedule=lambda step: 0.5, **options)
    tiny_runs.assert_same_arrays(whole.params, tiny_runs.fit(model, text, lr=0.5, **options).params)
    stopped = tiny_runs.fit(model, text, schedule=lambda step: jnp.where(step < 0, 1, 0), **options)
    start = tiny_runs.fit(model, text, lr=1e-30, **options)
    assert_trees_close(stopped.params, start.params, atol=1e-12)


def test_settings_that_a_custom_schedule_replaces_are_errors(text):
    model, constant = tiny_runs.make(jaxlm.RNN, text), lambda step: 0.5
    with pytest.raises(SettingError, match=r"`warmup_steps` 3: belongs to the schedule that you"):
        tiny_runs.fit(model, text, schedule=constant, warmup_steps=3, **OPTIONS)
    for custom in ({"schedule": constant}, {"optimizer": optax.sgd(0.5)}):
        with pytest.raises(SettingError, match=r"`sweep` lr: has no effect with .*= of your own"):
            jaxlm.fit_many(model, text, sweep={"lr": [0.1, 0.2]}, **custom, **OPTIONS)
    with pytest.raises(SettingError, match="`schedule` custom: is a function of your own"):
        tiny_runs.fit(model, text, schedule="custom", **OPTIONS)


WRONG_KIND = [
    ({"lr": "0.1"}, "`lr` '0.1': must be a number"),
    ({"steps": 1e3}, "`steps` 1000.0: must be an integer or none"),
    ({"tensorboard": 1}, "`tensorboard` 1: must be true or false"),
    ({"batch_size": True}, "`batch_size` True: must be an integer"),
    ({"optimizer": jaxlm.BatchingConfig()}, "`optimizer` BatchingConfig: must be a OptimizerConf"),
    ({"counting": CountingConfig()}, "is no option of fit"),
    ({"config": RunConfig.default("ngram")}, "`config` is of ngram, whose sections are text, co"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_KIND)
def test_settings_of_a_wrong_type_are_errors(options, message, text):
    with pytest.raises(UserError, match=message):
        tiny_runs.fit(tiny_runs.make(jaxlm.RNN, text), text, **options)


def test_numpy_numbers_become_python_numbers(text, tmp_path):
    options = OPTIONS | {"lr": jnp.float32(0.5), "steps": np.int64(2)}
    run = tiny_runs.fit(tiny_runs.make(jaxlm.RNN, text), text, tmp_path / "run", **options)
    assert (run.settings["optimizer"]["lr"], run.settings["training"]["steps"]) == (0.5, 2)


@pytest.mark.full
def test_frozen_parameters_do_not_change(text):
    model = tiny_runs.make(jaxlm.LSTM, text)
    options = OPTIONS | {"weight_decay": 0.1, "clip": 0.5}
    start = tiny_runs.fit(model, text, **options | {"lr": 1e-30, "weight_decay": 0.0})
    run = tiny_runs.fit(model, text, freeze="embedding*", **options)
    assert_array_equal(*(each.params["embedding"]["embedding"] for each in (run, start)))
    moved = [np.abs(a - b).max() for a, b in zip(*map(_others, (run, start)), strict=True)]
    assert min(moved) > 0
    with pytest.raises(SettingError, match=r"`freeze` embeding: matches no parameter; there a"):
        tiny_runs.fit(model, text, freeze="embeding", **OPTIONS)


def _others(run):
    return jax.tree.leaves({k: v for k, v in run.params.items() if k != "embedding"})


@pytest.mark.full
def test_callbacks_get_every_record(text, tmp_path):
    records: list[dict] = []
    model = tiny_runs.make(jaxlm.RNN, text)
    tiny_runs.fit(model, text, tmp_path, callbacks=[records.append], **OPTIONS)
    assert records == tiny_runs.records(tmp_path)
    assert {record["split"] for record in records} == {"train", "valid"}


@pytest.mark.full
def test_a_run_in_memory_is_saved_to_a_folder(text, tmp_path):
    model = tiny_runs.make(jaxlm.GRU, text)
    run = tiny_runs.fit(model, text, **OPTIONS)
    kept = run.save(tmp_path / "kept")
    tiny_runs.assert_same_arrays(run.params, jaxlm.load(tmp_path / "kept").params)
    assert (kept.step, kept.protocol, kept.folder) == (run.step, run.protocol, tmp_path / "kept")
    assert float(jaxlm.perplexity(kept, "valid")) == float(jaxlm.perplexity(run, "valid"))
    with pytest.raises(UserError, match="already holds a run"):
        run.save(tmp_path / "kept")
    with pytest.raises(UserError, match="kept"):
        tiny_runs.fit(
            model, text, tmp_path / "kept", resume=True, **OPTIONS | {"lr": 0.5, "bptt": 4}
        )
    # Training would start from random parameters, and would replace the saved parameters.
    with pytest.raises(UserError, match=r"kept holds parameters alone.*fine-tune"):
        tiny_runs.fit(model, text, tmp_path / "kept", resume=True, **OPTIONS)
    tiny_runs.assert_same_arrays(run.params, jaxlm.load(tmp_path / "kept").params)


def test_an_ngram_in_memory_is_saved_to_a_folder(text, tmp_path):
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
    run = tiny_runs.fit(model, text)
    kept = run.save(tmp_path / "kept")
    assert jaxlm.perplexity(kept, "valid").nll == jaxlm.perplexity(run, "valid").nll


class Unnamed(nn.Module):
    """A module that is not a LanguageModel."""


@pytest.mark.parametrize("thing", [Unnamed, "nplm", 3])
def test_only_language_models_are_registered(thing):
    with pytest.raises(UserError, match="takes a subclass of LanguageModel"):
        jaxlm.register_model("thing", thing)


@pytest.mark.full
def test_fine_tuning_keeps_or_extends_the_vocabulary(text, tmp_path):
    run = tiny_runs.fit(tiny_runs.make(jaxlm.LSTM, text), text, tmp_path / "run", **OPTIONS)
    other = tmp_path / "other.txt"
    other.write_text("w1 w2 new w3\nw4 newer new w5\n" * 30, encoding="utf-8")
    wide = jaxlm.read_corpus(str(other), tokenizer=run.tokenizer, extend=True)
    known = run.vocabulary.tokens
    assert wide.vocabulary.tokens == (*known, "new", "newer")
    frozen = OPTIONS | {"steps": 1, "lr": 1e-30}
    tuned = tiny_runs.fit(None, wide, from_run=run, **frozen)
    rows = np.asarray(tuned.params["embedding"]["embedding"])
    assert_array_equal(rows[: len(known)], run.params["embedding"]["embedding"])
    assert np.abs(rows[len(known) :]).min() > 0
    # The predictions of known words are unchanged, except for the share of the new words.
    context = " ".join(known[2:4])
    before, after = (jaxlm.next_words(each, context, 3, start="fresh") for each in (run, tuned))
    assert [word for word, _ in before] == [word for word, _ in after if word in known][:3]
    with pytest.raises(UserError, match="not among"):
        jaxlm.read_corpus(str(other), tokenizer=run.tokenizer)
    with pytest.raises(UserError, match=r"another vocabulary.*tokenizer=run.tokenizer"):
        tiny_runs.fit(None, jaxlm.read_corpus(str(other)), from_run=run, **OPTIONS)


@pytest.mark.full
def test_fine_tuning_starts_from_the_parameters_of_the_run(text):
    run = tiny_runs.fit(tiny_runs.make(jaxlm.LSTM, text), text, **OPTIONS)
    tuned = tiny_runs.fit(None, text, from_run=run, average="ema", **OPTIONS | {"lr": 1e-30})
    assert tuned.settings["from_run"] == run.name
    for trained, tuned_array in zip(*map(jax.tree.leaves, (run.params, tuned.params)), strict=True):
        np.testing.assert_allclose(trained, tuned_array, atol=1e-6)


@pytest.mark.full
def test_a_custom_optimizer_starts_from_the_parameters_of_the_run(text):
    run = tiny_runs.fit(tiny_runs.make(jaxlm.RNN, text), text, **OPTIONS)

    def to_the_start(updates, start, params):
        """Return updates that restore the initial parameters."""
        return jax.tree.map(lambda first, now: first - now, start, params), start

    optimizer = optax.GradientTransformation(lambda params: params, to_the_start)
    tuned = tiny_runs.fit(None, text, from_run=run, optimizer=optimizer, **OPTIONS)
    assert_trees_close(tuned.params, run.params, atol=1e-6)


@pytest.mark.full
def test_the_command_fine_tunes(text_file, train, tmp_path):
    flags = ("--batch-size", 4, "--bptt", 5, "--steps", 4, "--corpus", text_file)
    assert train("--model", "gru", "--hidden-size", 6, *flags, "--out", tmp_path / "run")[0] == 0
    other = tmp_path / "other.txt"
    other.write_text("w1 w2 new w3\n" * 60, encoding="utf-8")
    more = ("--corpus", other, "--batch-size", 2, "--bptt", 5, "--steps", 3)
    code, out, err = train("--from", tmp_path / "run", *more, "--out", tmp_path / "tuned")
    assert code == 0, err
    assert "is extended by 1 tokens" in out
    assert jaxlm.load(tmp_path / "tuned").model.hidden_size == 6
    code, out, _ = train("--from", tmp_path / "run", *flags, "--out", tmp_path / "kept")
    assert code == 0 and "is kept" in out
    (tmp_path / "rate.json").write_text('{"lr": 0.5}')
    from_file = ("--config", tmp_path / "rate.json", "--out", tmp_path / "by-file")
    assert train("--from", tmp_path / "run", *flags, *from_file)[0] == 0
    assert jaxlm.load(tmp_path / "by-file").settings["optimizer"]["lr"] == 0.5
    for wrong, message in {
        ("--recipe", "zaremba"): "unknown recipe 'zaremba'",
        ("--seeds", 2): "--seeds and --sweep start from random parameters: leave out --from",
        ("--model", "ngram"): "--from is for models trained by gradient",
    }.items():
        given = flags if "ngram" not in wrong else ("--corpus", text_file)
        code, _, err = train("--from", tmp_path / "run", *given, *wrong, "--out", tmp_path / "no")
        tiny_runs.assert_user_error(code, err)
        assert message in err and not (tmp_path / "no").exists()
