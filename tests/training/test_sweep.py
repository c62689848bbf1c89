"""Runs that train together equal runs that train alone."""

import shutil

import jax
import numpy as np
import pytest
import tiny_runs
from cases import assert_trees_close

import jaxlm
from jaxlm.errors import UserError
from jaxlm.models.layers import RATES
from jaxlm.runs.checkpoints import Checkpoints
from jaxlm.training.config import RunConfig
from jaxlm.training.loop import Extras, train_many
from jaxlm.training.sweep import sweep_runner
from jaxlm.training.trainee import Spec, Trainee


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tiny_runs.write_text(folder / "train.txt", 120, seed=1)
    tiny_runs.write_text(folder / "valid.txt", 30, seed=2)
    return jaxlm.read_corpus(str(folder))


OPTIONS = {"batch_size": 4, "bptt": 5, "steps": 12, "eval_every": 6, "log_every": 4, "lr": 0.02}


def many(model, text, folder=None, **options):
    settings = {"console": tiny_runs.quiet()} | OPTIONS | options
    return jaxlm.fit_many(model, text, folder=folder, **settings)


def assert_close(run, alone):
    assert run.step == alone.step
    assert_trees_close(run.params, alone.params, atol=2e-4)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "network", "options"),
    [
        (jaxlm.LSTM, {}, {"vary_bptt": True, "average": "ema", "schedule": "plateau"}),
        (jaxlm.NPLM, {}, {"batching": "windows"}),
        (jaxlm.ModernNPLM, {"far_windows": 2, "far_size": 2}, {}),
        # The bias of the keys has no gradient but rounding, which Adam would divide by itself.
        (jaxlm.Transformer, {"num_heads": 2}, {"optimizer": "sgd", "lr": 0.5}),
        (jaxlm.Mogrifier, {}, {}),
        (jaxlm.Recurrent, {"cell": jaxlm.CELLS["mingru"], "num_layers": 2, "residual": True}, {}),
        (jaxlm.LSTM, {"time_loop": "newton"}, {}),
        (jaxlm.GRU, {"softmax": "adaptive", "cutoffs": (4, 7)}, {}),
        (jaxlm.GRU, {"softmax": "sampled", "sampled_words": 4}, {}),
    ],
)
def test_runs_of_several_seeds_equal_runs_alone(kind, network, options, text):
    model = tiny_runs.make(kind, text, dropout=0.3, **network)
    settings = OPTIONS | options
    if settings.get("batching") == "windows":
        # The model has a window of its own.
        del settings["bptt"]
    _, run = jaxlm.fit_many(model, text, seeds=2, seed=5, quiet=True, **settings)
    assert_close(run, tiny_runs.fit(model, text, seed=6, **settings))


def test_runs_are_not_put_into_the_folder_of_a_single_run(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    short = OPTIONS | {"steps": 1, "eval_every": 1}
    tiny_runs.fit(model, text, tmp_path / "run", **short)
    with pytest.raises(UserError, match=r"`folder` .*run: holds a single run"):
        many(model, text, tmp_path / "run", seeds=2, **short)
    assert not (tmp_path / "run/seed-0").exists()


@pytest.mark.full
def test_runs_of_a_sweep_equal_runs_alone(text, tmp_path):
    model = tiny_runs.make(jaxlm.GRU, text)
    sweep = {"lr": [0.01, 0.03], "dropout": [0.0, 0.4], "clip": [0.1, 1.0]}
    runs = many(model, text, tmp_path / "sweep", sweep=sweep, weight_decay=0.01)
    names = [run.folder.name for run in runs]
    assert names[:2] == ["lr-0.01-dropout-0-clip-0.1-seed-0", "lr-0.01-dropout-0-clip-1-seed-0"]
    assert len(set(names)) == 8
    alone = {"weight_decay": 0.01, "clip": 0.1, "lr": 0.03}
    dropped = tiny_runs.make(jaxlm.GRU, text, dropout=0.4)
    run = runs[names.index("lr-0.03-dropout-0.4-clip-0.1-seed-0")]
    assert_close(run, tiny_runs.fit(dropped, text, **OPTIONS | alone))
    # A run of a sweep is loaded like any other run.
    loaded = jaxlm.load(run.folder)
    assert loaded.model.dropout == 0.4 and loaded.settings["optimizer"]["lr"] == 0.03
    assert float(jaxlm.perplexity(loaded, "valid")) > 1


@pytest.mark.full
def test_runs_may_differ_in_every_dropout_rate(text):
    rates = [name for name in RATES if name != "dropout"]
    model = tiny_runs.make(jaxlm.LSTM, text, num_layers=2)
    short = OPTIONS | {"steps": 2, "eval_every": 2}
    dropped = [model.clone(**dict.fromkeys(rates, rate)) for rate in (0.1, 0.4)]
    config = RunConfig.default("lstm").with_section_options(short)
    specs = [Spec(variant, config) for variant in dropped]
    _, run = train_many(specs, text, False, Extras(tiny_runs.quiet()), sweep_runner)
    assert_close(run, tiny_runs.fit(dropped[1], text, **short))


@pytest.mark.full
def test_a_rate_of_zero_in_a_sweep_changes_no_other_mask(text):
    """A sweep draws the mask of U also for the rate 0. The mask of h has its own key."""
    model = tiny_runs.make(jaxlm.LSTM, text, dropout_state=0.4)
    run, _ = many(model, text, sweep={"weight_drop": [0.0, 0.3]})
    assert_close(run, tiny_runs.fit(model, text, **OPTIONS))


@pytest.mark.full
def test_a_sweep_is_stopped_and_resumed(text, tmp_path, monkeypatch):
    # A dispatch has a single step, so that the sweep stops before the last step.
    monkeypatch.setattr("jaxlm.training.loop.DISPATCH_SECONDS", 0)
    model = tiny_runs.make(jaxlm.RNN, text)
    whole = many(model, text, tmp_path / "whole", seeds=2)
    stopping = tiny_runs.ActingConsole("seed-1: step      8  epoch", tiny_runs.terminate)
    parts = many(model, text, tmp_path / "parts", seeds=2, console=stopping)
    assert all(run.stopped_by for run in parts)
    parts = many(model, text, tmp_path / "parts", seeds=2, resume=True)
    for expected, found in zip(whole, parts, strict=True):
        tiny_runs.assert_same_arrays(expected.params, found.params)
        records = [tiny_runs.records(run.folder) for run in (expected, found)]
        assert records[0] == records[1]


@pytest.mark.full
def test_runs_killed_at_different_steps_are_resumed(text, tmp_path):
    """One run had saved a checkpoint that the other run had not."""
    model = tiny_runs.make(jaxlm.RNN, text)
    whole = many(model, text, tmp_path / "whole", seeds=2)
    parts = tmp_path / "parts"
    many(model, text, parts, seeds=2, steps=6)
    shutil.copytree(parts / "seed-1", tmp_path / "kept")
    many(model, text, parts, seeds=2, resume=True)
    shutil.rmtree(parts / "seed-1")
    shutil.move(tmp_path / "kept", parts / "seed-1")
    again = many(model, text, parts, seeds=2, resume=True)
    assert [run.folder.name for run in again] == ["seed-0", "seed-1"]
    # Both runs resume from the last step that both had saved, so the bytes are the same.
    for expected, found in zip(whole, again, strict=True):
        tiny_runs.assert_same_arrays(expected.params, found.params)
        valid = [tiny_runs.records(run.folder, "valid") for run in (expected, found)]
        assert valid[0] == valid[1]


@pytest.mark.full
def test_runs_resume_from_a_step_that_all_runs_can_read(text, tmp_path):
    """The newest checkpoint of a run is damaged, then also the older checkpoint of another run."""
    model = tiny_runs.make(jaxlm.RNN, text)
    parts = tmp_path / "parts"
    whole = many(model, text, parts, seeds=2)

    def damage(run, step):
        for path in (parts / run / f"checkpoints/last/{step}").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")

    damage("seed-1", 12)
    console = tiny_runs.quiet()
    again = many(model, text, parts, seeds=2, resume=True, console=console)
    for name in ("seed-0", "seed-1"):
        assert f"{name}: resumed at step 6 of 12" in console.file.getvalue()
    for one, other in zip(whole, again, strict=True):
        tiny_runs.assert_same_arrays(one.params, other.params)
        assert len(tiny_runs.records(other.folder, "valid")) == 2
    damage("seed-1", 12)
    damage("seed-0", 6)
    before = {path: path.read_bytes() for path in parts.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read \(steps 12, 6\)"):
        many(model, text, parts, seeds=2, resume=True)
    assert {path: path.read_bytes() for path in parts.rglob("*") if path.is_file()} == before


@pytest.mark.full
def test_a_run_whose_checkpoints_are_lost_does_not_restart_the_others(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    many(model, text, tmp_path, seeds=2)
    shutil.rmtree(tmp_path / "seed-1/checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "seed-0").rglob("*.jsonl")}
    with pytest.raises(UserError, match=r"seed-1 has no checkpoint, and other runs"):
        many(model, text, tmp_path, seeds=2, resume=True, steps=15)
    kept = {path: path.read_bytes() for path in before if "sessions" not in path.name}
    assert kept == {path: content for path, content in before.items() if path in kept}


@pytest.mark.full
def test_a_diverged_run_is_not_resumed_with_the_others(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    options = {"sweep": {"lr": [0.02, 1e38]}, "optimizer": "sgd"}
    (whole,) = many(model, text, tmp_path / "whole", **options)
    many(model, text, tmp_path / "parts", **options, steps=6)
    failed = tmp_path / "parts/lr-1e+38-seed-0/failed.json"
    assert not list(failed.parent.glob("*.partial"))
    # Killed while it wrote the file.
    failed.write_text(failed.read_text()[:5])
    (again,) = many(model, text, tmp_path / "parts", **options, resume=True)
    tiny_runs.assert_same_arrays(whole.params, again.params)


@pytest.mark.full
def test_a_diverged_run_does_not_cause_checkpoints(text, tmp_path, monkeypatch):
    """A diverged run does not save, so the age of its last checkpoint must not count."""
    saved = []
    monkeypatch.setattr("jaxlm.training.loop.DISPATCH_SECONDS", 0)
    monkeypatch.setattr(Trainee, "saving_is_due", property(lambda self: self.failed is not None))
    monkeypatch.setattr(Checkpoints, "save", lambda self, kind, *_: saved.append(kind))
    options = {"sweep": {"lr": [1e38, 0.02]}, "optimizer": "sgd", "eval_every": 1000}
    many(tiny_runs.make(jaxlm.RNN, text), text, tmp_path, **options, checkpoint_minutes=60)
    assert saved.count("last") == 1, "only the other run saves, at the end"


@pytest.mark.full
def test_resuming_with_an_additional_seed_is_an_error(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    many(model, text, tmp_path, seeds=2, steps=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"seed-2 holds no run, but 2 other folders do: resume"):
        many(model, text, tmp_path, seeds=3, steps=2, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.full
def test_if_a_folder_is_taken_no_other_folder_is_made(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    tiny_runs.fit(model, text, tmp_path / "runs" / "seed-1", **OPTIONS)
    with pytest.raises(UserError, match="seed-1 already holds a run"):
        many(model, text, tmp_path / "runs", seeds=2)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["seed-1"]


@pytest.mark.full
def test_a_diverged_run_ends_and_the_others_continue(text, tmp_path):
    model = tiny_runs.make(jaxlm.RNN, text)
    console = tiny_runs.quiet()
    sweep = {"lr": [0.02, 1e38]}
    runs = many(model, text, tmp_path, sweep=sweep, optimizer="sgd", console=console)
    assert [run.folder.name for run in runs] == ["lr-0.02-seed-0"]
    assert (
        "lr-1e+38-seed-0: warning: this run ends: the loss is not finite" in console.file.getvalue()
    )
    good = tiny_runs.fit(model, text, optimizer="sgd", **OPTIONS)
    assert_close(runs[0], good)
    with pytest.raises(UserError, match="not finite"):
        many(model, text, sweep={"lr": [1e38, 2e38]}, optimizer="sgd")


@pytest.mark.full
def test_a_run_out_of_patience_ends_as_it_does_alone(text, tmp_path):
    """The slow run does not improve at step 6 and ends. The other run continues."""
    model = tiny_runs.make(jaxlm.RNN, text)
    options = {"eval_every": 3, "log_every": 1, "patience": 1}
    sweep, slow = {"lr": [0.02, 1e-30]}, tmp_path / "runs/lr-1e-30-seed-0"
    runs = many(model, text, tmp_path / "runs", sweep=sweep, **options)
    alone = tiny_runs.fit(model, text, tmp_path / "alone", **OPTIONS | options | {"lr": 1e-30})
    assert_close(runs[1], alone)
    steps = [
        [record["step"] for record in tiny_runs.records(folder)]
        for folder in (slow, tmp_path / "alone", runs[0].folder)
    ]
    assert steps[0] == steps[1] and (max(steps[0]), max(steps[2])) == (6, 12)
    assert tiny_runs.whole_state(slow)[1]["step"] == 6
    # The slow run has no newer step in common with the other run.
    before = {
        path: path.read_bytes() for path in slow.rglob("*.jsonl") if "session" not in str(path)
    }
    with pytest.raises(UserError, match="resume with the same `patience`"):
        many(model, text, tmp_path / "runs", sweep=sweep, resume=True, **options | {"patience": 2})
    resumed = many(model, text, tmp_path / "runs", sweep=sweep, resume=True, steps=15, **options)
    assert {path: path.read_bytes() for path in before} == before
    assert_close(resumed[1], alone)
    assert max(record["step"] for record in tiny_runs.records(runs[0].folder)) == 15
    # Each run is out of patience or finished.
    again = many(model, text, tmp_path / "runs", sweep=sweep, resume=True, steps=15, **options)
    assert_close(again[0], resumed[0])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "`seeds` 0: must be at least 1"),
        ({"sweep": {"hidden_size": [4, 8]}}, "'hidden_size'.*lr, clip"),
        ({"sweep": {"lr": [0.1, 0.1]}}, "`sweep` lr=0.1,0.1: give values that differ"),
        ({"sweep": {"lr": [0.1, -0.1]}}, "`lr` -0.1: must be above 0"),
        ({"sweep": {"dropout": [0.1, 1.5]}}, "`dropout` 1.5: must be at least 0 and below 1"),
    ],
)
def test_bad_settings_are_errors(options, message, text, tmp_path):
    with pytest.raises(UserError, match=message):
        many(tiny_runs.make(jaxlm.RNN, text), text, tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.full
def test_each_run_has_its_own_random_numbers(text):
    runs = many(tiny_runs.make(jaxlm.RNN, text), text, seeds=2, steps=1)
    leaves = [jax.tree.leaves(run.params)[0] for run in runs]
    assert not np.allclose(*leaves)
