"""Settings of long jobs: number, frequency and folder of checkpoints, and a record of sessions."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from tiny_runs import fit, make, write_text

import jaxlm
from jaxlm.commands.mixing import load_mixed
from jaxlm.errors import SettingError, UserError
from jaxlm.interop.huggingface.writing import export_huggingface
from jaxlm.training.config import RunConfig


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = write_text(tmp_path_factory.mktemp("text") / "text.txt", lines=60)
    return jaxlm.read_corpus(str(path))


@pytest.fixture
def fit_tiny(text):
    return lambda folder, **options: fit(
        make(jaxlm.RNN, text), text, folder, batch_size=4, bptt=5, seed=1, **options
    )


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def assert_same_params(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.full
def test_keep_sets_the_number_of_checkpoints(fit_tiny, tmp_path):
    fit_tiny(tmp_path / "run", steps=20, checkpoint_every=4, keep=3)
    assert steps_in(tmp_path / "run/checkpoints/last") == [12, 16, 20]


@pytest.mark.full
def test_checkpoints_by_the_clock_do_not_change_training(fit_tiny, tmp_path):
    # A millionth of a minute means a checkpoint after every dispatch.
    clocked = fit_tiny(tmp_path / "clocked", steps=20, checkpoint_minutes=1e-6, keep=1000)
    assert len(steps_in(tmp_path / "clocked/checkpoints/last")) > 1
    plain = fit_tiny(tmp_path / "plain", steps=20)
    assert_same_params(clocked, plain)
    for name in ("metrics.jsonl", "tokenizer.json"):
        contents = [(tmp_path / run / name).read_bytes() for run in ("clocked", "plain")]
        assert contents[0] == contents[1]


@pytest.mark.full
def test_checkpoints_may_be_in_another_folder(fit_tiny, tmp_path):
    place = {"checkpoint_folder": str(tmp_path / "elsewhere")}
    fit_tiny(tmp_path / "run", steps=10, **place)
    assert not (tmp_path / "run/checkpoints").exists()
    assert (tmp_path / "elsewhere/run/last/10").is_dir()
    resumed = fit_tiny(tmp_path / "run", steps=20, resume=True, **place)
    assert_same_params(resumed, fit_tiny(tmp_path / "whole", steps=20))
    assert_same_params(jaxlm.load(tmp_path / "run", **place), resumed)


@pytest.mark.full
def test_a_run_whose_folder_is_lost_resumes_from_its_checkpoints(fit_tiny, tmp_path):
    place = {"checkpoint_folder": str(tmp_path / "elsewhere")}
    fit_tiny(tmp_path / "run", steps=10, **place)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match=f"{tmp_path}/elsewhere/run already holds the checkpoints"):
        fit_tiny(tmp_path / "run", steps=20, **place)
    assert not (tmp_path / "run").exists()
    resumed = fit_tiny(tmp_path / "run", steps=20, resume=True, **place)
    assert_same_params(resumed, fit_tiny(tmp_path / "whole", steps=20))
    assert_same_params(jaxlm.load(tmp_path / "run", **place), resumed)


def test_a_checkpoint_folder_is_read_only_if_the_caller_names_it(fit_tiny, tmp_path):
    """A stranger may have written config.json."""
    place = str(tmp_path / "elsewhere")
    fit_tiny(tmp_path / "run", steps=2, checkpoint_folder=place)
    with pytest.raises(SettingError, match=f"to read that place, give `checkpoint_folder` {place}"):
        jaxlm.load(tmp_path / "run")
    with pytest.raises(SettingError, match="`checkpoint_folder` other: "):
        jaxlm.load(tmp_path / "run", checkpoint_folder="other")
    run = jaxlm.load(tmp_path / "run", checkpoint_folder=place + "/")
    assert run.step == 2
    # A folder for transformers holds the parameters itself.
    export_huggingface(run, tmp_path / "hf")
    assert_same_params(jaxlm.load(tmp_path / "hf"), run)
    fit_tiny(tmp_path / "here", steps=2)
    with pytest.raises(SettingError, match="in its own folder: leave the setting out"):
        jaxlm.load(tmp_path / "here", checkpoint_folder=place)


def test_checkpoints_that_cannot_be_reached_are_one_line(fit_tiny, tmp_path, monkeypatch):
    place = str(tmp_path / "elsewhere")
    fit_tiny(tmp_path / "run", steps=2, checkpoint_folder=place)

    def unreachable(folder):
        raise ImportError("Please install gcsfs to access\nGoogle Storage")

    monkeypatch.setattr("jaxlm.runs.remote_checkpoints.path_of", unreachable)
    with pytest.raises(UserError, match=r"cannot read .*run: Please install gcsfs .* can be read"):
        jaxlm.load(tmp_path / "run", checkpoint_folder=place)


def test_a_run_kept_elsewhere_is_mixed_with_an_ngram(fit_tiny, text, tmp_path):
    place = str(tmp_path / "elsewhere")
    fit_tiny(tmp_path / "run", steps=2, checkpoint_folder=place)
    ngram = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    fit(ngram, text, tmp_path / "ngram")
    mixed = load_mixed([tmp_path / "run", tmp_path / "ngram"], ".5,.5", place)
    assert [type(part.model).__name__ for part in mixed.parts] == ["RNN", "NGram"]
    with pytest.raises(SettingError, match="has its checkpoints in its own folder"):
        load_mixed([tmp_path / "ngram"], None, place)


def test_the_current_folder_has_its_name_in_the_checkpoint_folder(fit_tiny, tmp_path, monkeypatch):
    place = str(tmp_path / "elsewhere")
    run = fit_tiny(tmp_path / "run", steps=2, checkpoint_folder=place)
    monkeypatch.chdir(tmp_path / "run")
    found = jaxlm.load(".", checkpoint_folder=place)
    assert_same_params(found, run)


def test_a_resumed_run_needs_the_same_checkpoint_folder(fit_tiny, tmp_path):
    place = {"checkpoint_folder": str(tmp_path / "elsewhere")}
    fit_tiny(tmp_path / "run", steps=2, **place)
    with pytest.raises(UserError, match=r"elsewhere/run, not in .*: resume with the same"):
        fit_tiny(tmp_path / "run", steps=4, resume=True)


@pytest.mark.full
def test_resume_without_a_run_starts_a_run(fit_tiny, tmp_path):
    """This holds with and without remote checkpoints."""
    place = {"checkpoint_folder": str(tmp_path / "elsewhere")}
    here = fit_tiny(tmp_path / "here", steps=2, resume=True)
    there = fit_tiny(tmp_path / "there", steps=2, resume=True, **place)
    assert_same_params(here, there)
    assert steps_in(tmp_path / "elsewhere/there/last") == [2]


@pytest.mark.full
def test_the_command_resumes_only_an_existing_run(train, text_file, tmp_path):
    argv = ("--model", "rnn", "--corpus", text_file, "--checkpoint-folder", tmp_path / "elsewhere")
    argv = (*argv, "--hidden-size", 4, "--steps", 2, "--batch-size", 4)
    code, _, err = train(*argv, "--out", tmp_path / "run", "--resume")
    assert code == 2 and "run holds no run to continue" in err
    assert not (tmp_path / "run").exists() and not (tmp_path / "elsewhere").exists()
    assert train(*argv, "--out", tmp_path / "run")[0] == 0
    shutil.rmtree(tmp_path / "run")
    code, out, _ = train(*argv, "--out", tmp_path / "run", "--resume")
    assert code == 0 and "resumed at step 2 of 2" in out


@pytest.mark.full
def test_two_sweeps_share_a_checkpoint_folder(text, tmp_path):
    model = make(jaxlm.RNN, text)
    place = str(tmp_path / "remote")
    many = {"steps": 2, "batch_size": 4, "bptt": 5, "checkpoint_folder": place, "quiet": True}
    for name in ("A", "B"):
        runs = jaxlm.fit_many(model, text, seeds=2, folder=tmp_path / name, **many)
        assert steps_in(tmp_path / "remote" / name / "seed-1" / "last") == [2]
    loaded = jaxlm.load(tmp_path / "B/seed-1", checkpoint_folder=f"{place}/B")
    assert_same_params(loaded, runs[1])
    shutil.rmtree(tmp_path / "A")
    longer = many | {"steps": 3, "resume": True}
    runs = jaxlm.fit_many(model, text, seeds=2, folder=tmp_path / "A", **longer)
    assert runs[0].step == 3 and steps_in(tmp_path / "remote/A/seed-0/last") == [2, 3]


@pytest.mark.full
def test_a_sweep_of_version_0_1_0_is_resumed(text, tmp_path):
    """Version 0.1.0 saved the runs of a sweep directly in the checkpoint folder."""
    model = make(jaxlm.RNN, text)
    place = str(tmp_path / "remote")
    many = {"steps": 2, "batch_size": 4, "bptt": 5, "checkpoint_folder": place, "quiet": True}
    for seed in (0, 1):
        jaxlm.fit(model, text, folder=tmp_path / f"A/seed-{seed}", seed=seed, **many)
    assert steps_in(tmp_path / "remote/seed-1/last") == [2]
    for steps, lost in ((3, False), (4, True)):
        if lost:
            shutil.rmtree(tmp_path / "A")
        longer = many | {"steps": steps, "resume": True}
        runs = jaxlm.fit_many(model, text, seeds=2, folder=tmp_path / "A", **longer)
        assert runs[0].step == steps
    assert steps_in(tmp_path / "remote/seed-1/last") == [3, 4]
    assert not (tmp_path / "remote/A").exists()


@pytest.mark.parametrize("existed", [False, True])
def test_an_unwritable_checkpoint_folder_is_an_error_before_files_are_made(
    fit_tiny, tmp_path, existed
):
    (tmp_path / "file").write_text("in the way")
    if existed:
        (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"`checkpoint_folder`: cannot write .*file/runs/run: .*"):
        fit_tiny(tmp_path / "run", steps=2, checkpoint_folder=str(tmp_path / "file/runs"))
    assert (tmp_path / "run").exists() == existed
    assert not existed or not list((tmp_path / "run").iterdir())


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_bucket_without_its_package_is_an_error_before_files_are_made(fit_tiny, tmp_path):
    with pytest.raises(UserError, match="cannot read gs://bucket/runs/run: Please install gcsfs"):
        fit_tiny(tmp_path / "run", steps=2, checkpoint_folder="gs://bucket/runs")
    assert not (tmp_path / "run").exists()


def test_if_a_checkpoint_folder_is_taken_no_run_of_a_sweep_starts(text, tmp_path):
    place = tmp_path / "elsewhere"
    (place / "runs/seed-2/last").mkdir(parents=True)
    model = make(jaxlm.RNN, text)
    many = {"folder": tmp_path / "runs", "steps": 2, "batch_size": 4, "bptt": 5}
    with pytest.raises(UserError, match="seed-2 already holds the checkpoints of a run"):
        jaxlm.fit_many(model, text, seeds=2, seed=1, checkpoint_folder=str(place), **many)
    assert [path.name for path in (place / "runs").iterdir()] == ["seed-2"]
    assert not list((tmp_path / "runs").glob("*"))


def test_a_folder_records_command_versions_and_devices(fit_tiny, tmp_path):
    config = RunConfig.default("rnn")
    made = {"config": replace(config, about={"command": ["python", "mine.py"]})}
    for steps, resume in ((2, False), (4, True)):
        fit_tiny(tmp_path / "run", steps=steps, resume=resume, **made)
    lines = (tmp_path / "run/sessions.jsonl").read_text().splitlines()
    sessions = [json.loads(line) for line in lines]
    assert len(sessions) == 2 and sessions[0] == sessions[1]
    assert sessions[0]["command"] == ["python", "mine.py"]
    assert sessions[0]["versions"]["jax"] == jax.__version__
    assert sessions[0]["devices"]["mesh"] == {"data": 1, "model": 1}
    assert sessions[0]["devices"]["processes"] == 1 and sessions[0]["cores"] > 0


@pytest.mark.parametrize("option", ["keep", "checkpoint_minutes"])
def test_bad_settings_are_errors(fit_tiny, tmp_path, option):
    with pytest.raises(UserError, match=f"`{option}` 0: must be above 0"):
        fit_tiny(tmp_path / "run", steps=1, **{option: 0})
    assert not (tmp_path / "run").exists()
