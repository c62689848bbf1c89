"""A setting without effect is a one-line error, before a folder is made."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm.commands.settings import read_config_file
from jaxlm.errors import SettingError, UserError
from jaxlm.ngrams.config import CountingConfig
from jaxlm.parallel.mesh import make_mesh
from jaxlm.training.config import RunConfig
from jaxlm.training.sweep import sweep_specs
from jaxlm.training.trainee import Spec

STREAMS = {"batch_size": 4, "bptt": 5, "steps": 2}


@pytest.fixture(scope="module")
def model(text):
    return tiny_runs.make(jaxlm.RNN, text)


def refused(model, text, folder=None, **options):
    with pytest.raises(SettingError) as caught:
        tiny_runs.fit(model, text, folder, **STREAMS | options)
    assert folder is None or not folder.exists()
    return caught.value


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"eval_every": 1},
        {"schedule": "plateau"},
        {"average": "triggered"},
    ],
)
def test_settings_that_need_a_validation_split_are_errors_without_it(
    options, model, text, tmp_path
):
    alone = jaxlm.Text(text.config, text.tokenizer, {"train": text.train})
    ((name, value),) = options.items()
    error = refused(model, alone, tmp_path / "run", **options)
    assert (error.field, error.value) == (name, value)
    assert "needs a validation split" in error.why


def test_later_epochs_replace_steps(model, text):
    error = refused(model, text, epochs=3)
    assert (error.field, error.value) == ("epochs", 3)
    base = RunConfig.default("rnn").with_options({"steps": 7}, "a recipe")
    later = base.with_options({"epochs": 2}, "a file")
    assert (later.training.steps, later.training.epochs) == (None, 2)
    assert base.with_section_options({"epochs": 2}).training.steps is None
    assert base.with_section_options({"epochs": 2, "steps": None}).training.steps is None
    assert base.with_options({"epochs": 2, "steps": 5}, "a kept run").training.steps == 5
    # With a time budget both have an effect: epochs shape the schedules.
    both = base.with_section_options({"epochs": 2, "steps": 5, "max_minutes": 9.0})
    assert (both.training.steps, both.training.epochs) == (5, 2)


@pytest.mark.parametrize(
    ("mesh", "named"),
    [({"dta": 7}, "'dta'"), ({"data": 0}, "data=0"), ({"data": 1.5}, "data=1.5")],
)
def test_impossible_meshes_are_errors(mesh, named, model, text, tmp_path):
    with pytest.raises(UserError, match=named):
        tiny_runs.fit(model, text, tmp_path / "run", mesh=mesh, **STREAMS)
    assert not (tmp_path / "run").exists()


def test_a_mesh_of_one_device_is_none():
    assert make_mesh({"data": np.int64(1)}) is None


def test_positions_without_effect_are_an_error(model, text):
    assert "`batching` rows, not streams" in str(refused(model, text, positions="last"))
    ngram = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    with pytest.raises(SettingError, match="`positions` last: needs a text without <eos>"):
        tiny_runs.fit(ngram, text, counting=CountingConfig(positions="last"))


@pytest.mark.parametrize(
    "options",
    [{"checkpoint_folder": "somewhere"}, {"tensorboard": True}, {"resume": True}],
)
def test_settings_that_need_a_folder_are_errors_without_it(options, model, text):
    error = refused(model, text, **options)
    assert {error.field: error.value} == options and "needs `folder`" in error.why


@pytest.mark.parametrize(
    "values",
    [[None, 1.0], ["0.1"], 0.1, "0.1", [[0.1, 0.2]], [True], [0.1, np.float64(0.1)], []],
    ids=str,
)
def test_values_that_cannot_be_swept_are_errors(values, model, text, tmp_path):
    with pytest.raises(SettingError) as caught:
        jaxlm.fit_many(model, text, sweep={"clip": values}, folder=tmp_path / "runs", quiet=True)
    assert caught.value.field == "sweep" and "clip=" in caught.value.value
    assert not (tmp_path / "runs").exists()


def test_arrays_are_swept_and_names_of_runs_differ(model, tmp_path):
    spec = Spec(model, RunConfig.default("rnn"))

    def swept(values):
        specs = sweep_specs(spec, 1, {"lr": values}, tmp_path)
        return {one.folder.name: one.config.optimizer.lr for one in specs}

    half = swept(np.array([0.5, 0.25], np.float32))
    assert half == {"lr-0.5-seed-0": 0.5, "lr-0.25-seed-0": 0.25}
    assert {type(value) for value in half.values()} == {float}
    assert swept([np.float32(0.5)]) == {"lr-0.5-seed-0": 0.5}
    close = [0.12345678, 0.12345679]
    assert swept(close) == {f"lr-{value}-seed-0": value for value in close}
    # The names of earlier versions stay: 1.0 is 1.
    assert list(swept([1.0, 0.001, 1e-5])) == ["lr-1-seed-0", "lr-0.001-seed-0", "lr-1e-05-seed-0"]


def test_a_resumed_run_names_a_setting_that_this_version_lacks(model, text, tmp_path):
    tiny_runs.fit(model, text, tmp_path, **STREAMS)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["gone"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="its network is gone 3, not absent; repeat"):
        tiny_runs.fit(model, text, tmp_path, resume=True, **STREAMS)


@pytest.mark.full
def test_config_json_names_the_source_of_the_parameters(model, text, tmp_path):
    start = tiny_runs.fit(model, text, tmp_path / "start", **STREAMS)
    tiny_runs.fit(None, text, tmp_path / "tuned", from_run=start, **STREAMS)
    config = json.loads((tmp_path / "tuned/config.json").read_text())
    assert config["from_run"] == str(tmp_path / "start")
    # It is not a setting in the file.
    assert "from_run" not in read_config_file(tmp_path / "tuned/config.json")


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({"ema_decay": 0.9}, "average"),
        ({"trigger_after": 3, "average": "ema"}, "average"),
        ({"decay": 0.3}, "schedule"),
        ({"full_epochs": 2, "schedule": "cosine"}, "schedule"),
        ({"plateau_patience": 2}, "schedule"),
        ({"beta2": 0.9, "optimizer": "sgd"}, "optimizer"),
        ({"epsilon": 1e-6, "optimizer": "momentum"}, "optimizer"),
        ({"drop_state": 0.1, "batching": "windows"}, "batching"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_of_another_choice_is_an_error(options, choice, model, text, tmp_path):
    error = refused(model, text, tmp_path / "run", **options)
    assert error.field == next(iter(options))
    assert f"has no effect with `{choice}`" in error.why


def test_devices_that_do_not_divide_the_batch_are_left_out(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [None] * 4)
    assert make_mesh(batch_size=5) is None


@pytest.mark.full
def test_the_lecture_runs_on_several_devices(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jaxlm.train", "--model", "nplm", "--steps", "20"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | flags, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--batch-size 3 does not split evenly over 2 devices: 1 train" in done.stdout
