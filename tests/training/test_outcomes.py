"""Ends of runs: early stopping, losses that are not finite, and the files of a run."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs

import jaxlm
from jaxlm import BatchingConfig, UserError
from jaxlm.runs.plots import _curve
from jaxlm.training.metrics import METRICS

STREAMS = BatchingConfig("streams", 6, 8)
# No parameter changes, so no validation is better than the first.
STALLS = {"optimizer": "sgd", "lr": 1e-30}


@pytest.fixture(scope="module")
def model(text):
    return tiny_runs.make(jaxlm.RNN, text)


@pytest.fixture(scope="module")
def run(model, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "rnn"
    options = {"steps": 20, "log_every": 1, "eval_every": 10, "tensorboard": True}
    tiny_runs.fit(model, text, folder, batching=STREAMS, **options)
    return folder


@pytest.mark.full
def test_patience_counts_validations_without_improvement(model, text, tmp_path):
    folder = tmp_path / "run"
    options = {"batching": STREAMS, "steps": 90, "eval_every": 10, "patience": 2} | STALLS
    for resume in (False, True):
        run = tiny_runs.fit(model, text, folder, resume=resume, **options)
        assert [record["step"] for record in tiny_runs.records(folder, "valid")] == [10, 20, 30]
        assert (run.step, tiny_runs.whole_state(folder)[1]["step"]) == (10, 30)


@pytest.mark.full
def test_a_kill_before_the_best_is_written_loses_nothing(model, text, tmp_path):
    """The run is killed after the last checkpoint is written and before the best is written."""
    options = {"batching": STREAMS, "eval_every": 10} | STALLS
    first = tiny_runs.fit(model, text, tmp_path, steps=10, **options)
    shutil.rmtree(tmp_path / "checkpoints" / "best")
    run = tiny_runs.fit(model, text, tmp_path, resume=True, steps=30, **options)
    assert (run.step, jaxlm.load(tmp_path).step) == (10, 10)
    tiny_runs.assert_same_arrays(run.params, first.params)


@pytest.mark.full
def test_plateau_decays_after_plateau_patience_validations(model, text, tmp_path):
    options = {"batching": STREAMS, "steps": 60, "eval_every": 10, "decay": 0.1} | STALLS
    tiny_runs.fit(model, text, tmp_path, schedule="plateau", plateau_patience=2, **options)
    # Five validations were not better than the first. The second and the fourth caused decays.
    state, meta = tiny_runs.whole_state(tmp_path)
    np.testing.assert_allclose(state[".lr_scale"], 0.01, rtol=1e-6)
    assert (meta["progress"]["worse_since_decay"], meta["progress"]["worse_in_a_row"]) == (1, 5)
    # The factor is part of the schedule, and ends with it.
    console = tiny_runs.quiet()
    options |= {"steps": 62, "lr": 0.01, "resume": True, "console": console}
    tiny_runs.fit(model, text, tmp_path, schedule="constant", **options)
    assert tiny_runs.whole_state(tmp_path)[0][".lr_scale"] == 1
    assert "the factor 0.01 of plateaus is dropped" in console.file.getvalue()


def test_metrics_are_finite_and_have_no_times(run):
    train, valid = tiny_runs.records(run, "train"), tiny_runs.records(run, "valid")
    assert [record["step"] for record in train] == list(range(1, 21))
    assert [record["step"] for record in valid] == [10, 20]
    assert {tuple(record) for record in train} == {
        ("step", "split", "epoch", "loss", "ppl", *METRICS)
    }
    assert {tuple(record) for record in valid} == {("step", "split", "nll", "tokens", "ppl")}
    for record in train + valid:
        assert all(math.isfinite(value) for name, value in record.items() if name != "split")
    for record in train:
        assert record["ppl"] == pytest.approx(math.exp(record["loss"]))


def test_times_are_in_timing_jsonl(run):
    timing = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in tiny_runs.records(run)]
    assert [record["step"] for record in timing] == steps
    assert all(record["seconds"] >= 0 for record in timing)
    assert all(record["tokens_per_second"] >= 0 for record in timing)
    seconds = [record["seconds"] for record in timing]
    assert seconds[-1] >= seconds[1]


def test_tensorboard_has_the_same_numbers(run):
    (events,) = (run / "tensorboard").iterdir()
    data = events.read_bytes()
    for tag in ("train/loss", "train/ppl", "train/grad_norm", "valid/nll", "valid/ppl"):
        assert tag.encode() in data
    assert data.count(b"train/loss") == 20


def test_load_returns_the_parameters_of_the_best_validation(model, text, run):
    nll = {record["step"]: record["nll"] for record in tiny_runs.records(run, "valid")}
    loaded = jaxlm.load(run)
    assert loaded.step == min(nll, key=nll.get) == 20
    report = jaxlm.perplexity(loaded, text.valid)
    assert report.nll == pytest.approx(nll[20], rel=1e-6)


# After a step with TOO_MUCH the loss is not finite. After a step with BREAKS the parameters are not
# finite.
TOO_MUCH = {"lr": 1e38}
BREAKS = TOO_MUCH | {"weight_decay": 1e6}
# The first bad step is 4. Each case has the options, the steps between checkpoints, the steps
# between validations, and the step at which the run notices.
NOTICED = [(TOO_MUCH, 3, 3, 5), (BREAKS, 1, 4, 4)]


@pytest.mark.quick_for("bad1-1-4-4")
@pytest.mark.parametrize(("bad", "checkpoint_every", "eval_every", "step"), NOTICED)
def test_a_loss_that_is_not_finite_stops_the_run(
    bad, checkpoint_every, eval_every, step, model, text, tmp_path
):
    """The saved parameters can be loaded, and the run resumes as the message advises."""
    options = {"batching": STREAMS, "optimizer": "sgd"}
    options |= {"checkpoint_every": checkpoint_every, "eval_every": eval_every}
    tiny_runs.fit(model, text, tmp_path, lr=0.01, steps=3, **options)
    kept = jaxlm.load(tmp_path)
    options |= {"resume": True, "steps": 40}
    message = rf"not finite at step {step}: .*`lr` \(now 1e\+38\).*step 3 in .* is kept"
    with pytest.raises(UserError, match=message):
        tiny_runs.fit(model, text, tmp_path, **bad, **options)
    found = jaxlm.load(tmp_path)
    assert found.step == kept.step == 3
    tiny_runs.assert_same_arrays(found.params, kept.params)
    console = tiny_runs.quiet()
    tiny_runs.fit(model, text, tmp_path, console=console, lr=0.01, **options | {"steps": 8})
    assert "resumed at step 3 of 8" in console.file.getvalue()
    assert not (tmp_path / "failed.json").exists()
    assert tiny_runs.whole_state(tmp_path)[1]["step"] == 8


@pytest.mark.full
def test_a_last_step_with_parameters_that_are_not_finite_is_not_saved(text, tmp_path):
    """There is no later step and no validation that would notice."""
    alone = jaxlm.Text(text.config, text.tokenizer, {"train": text.train})
    model = tiny_runs.make(jaxlm.RNN, text)
    options = {"batching": STREAMS, "optimizer": "sgd", "checkpoint_every": 4}
    tiny_runs.fit(model, alone, tmp_path, lr=0.01, steps=3, **options)
    with pytest.raises(UserError, match=r"not finite at step 4: .*step 3 in .* is kept"):
        tiny_runs.fit(model, alone, tmp_path, **BREAKS, steps=4, resume=True, **options)
    assert jaxlm.load(tmp_path).step == 3


@pytest.mark.full
def test_metrics_are_json_also_if_a_perplexity_overflows(model, text, tmp_path):
    options = {"batching": STREAMS, "optimizer": "sgd", "lr": 1e5, "log_every": 1, "eval_every": 4}
    tiny_runs.fit(model, text, tmp_path, steps=8, **options)
    assert max(record["loss"] for record in tiny_runs.records(tmp_path, "train")) > 710

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert _curve(tiny_runs.records(tmp_path), "").axes[0].lines


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_logged_metric_that_is_not_finite_does_not_stop_a_run(
    value, model, text, tmp_path, monkeypatch
):
    monkeypatch.setitem(METRICS, "always", lambda values: jnp.float32(value))
    monkeypatch.setitem(METRICS, "update_norm", lambda values: optax.tree.norm(values.updates))
    run = tiny_runs.fit(model, text, tmp_path, batching=STREAMS, steps=2, log_every=1)
    assert run.step == 2
    for record in tiny_runs.records(tmp_path, "train"):
        assert "always" not in record and record["update_norm"] > 0


@pytest.mark.full
def test_the_command_reports_a_loss_that_is_not_finite(train, text_file, tmp_path):
    argv = ["--model", "rnn", "--embedding-size", 8, "--hidden-size", 8, "--corpus", text_file]
    argv += ["--batch-size", 6, "--bptt", 8, "--optimizer", "sgd", "--lr", "1e38", "--steps", 9]
    code, _, err = train(*argv, "--out", tmp_path / "run")
    tiny_runs.assert_user_error(code, err)
    assert "not finite at step 2" in err


WRONG = [
    ({"steps": 0}, "`steps` 0"),
    ({"epochs": 0.0}, "`epochs` 0"),
    ({"epochs": float("inf")}, "`epochs` inf"),
    ({"log_every": 0}, "`log_every` 0"),
    ({"eval_every": -1}, "`eval_every` -1"),
    ({"checkpoint_every": 0}, "`checkpoint_every` 0"),
    ({"patience": 0}, "`patience` 0"),
    ({"seed": -1, "batching": BatchingConfig("windows", 4)}, "`seed` -1"),
    ({"stpes": 3}, "steps"),
    ({"lr": -1.0}, "`lr` -1"),
    ({"schedule": "cosin"}, "cosine"),
    ({"batching": BatchingConfig("streams", 10**6)}, "`batch_size` 1000000"),
]


@pytest.mark.parametrize(("options", "named"), WRONG)
def test_bad_settings_are_errors_before_a_folder_is_made(options, named, model, text, tmp_path):
    with pytest.raises(UserError, match=named):
        tiny_runs.fit(model, text, tmp_path / "run", **{"steps": 1, "batching": STREAMS} | options)
    assert not (tmp_path / "run").exists()


def test_a_missing_tensorboard_is_an_error(model, text, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        tiny_runs.fit(model, text, tmp_path / "run", batching=STREAMS, steps=1, tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_run_needs_no_folder_and_no_valid_split(text, tmp_path):
    alone = jaxlm.Text(text.config, text.tokenizer, {"train": text.train})
    model = tiny_runs.make(jaxlm.RNN, text)
    folder = tmp_path / "run"
    runs = [
        tiny_runs.fit(model, alone, place, batching=STREAMS, steps=25, checkpoint_every=9)
        for place in (None, folder)
    ]
    tiny_runs.assert_same_arrays(runs[0].params, runs[1].params)
    assert [run.step for run in runs] == [25, 25]
    assert jaxlm.load(folder).step == 25
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["last"]


@pytest.mark.quick_for("of the device")
@pytest.mark.parametrize(
    "error",
    [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")],
    ids=["of the machine", "of the device"],
)
def test_a_full_memory_is_one_line_and_frees_the_folder(error, text, tmp_path, monkeypatch):
    model = tiny_runs.make(jaxlm.RNN, text)
    options = {"batch_size": 4, "bptt": 5, "steps": 2}

    def full(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("jaxlm.training.loop.make_train_block", lambda *_, **__: full)
        with pytest.raises(UserError, match=r"the memory is full: lower `batch_size` \(now 4\)"):
            tiny_runs.fit(model, text, tmp_path / "run", **options)
    tiny_runs.fit(model, text, tmp_path / "run", **options | {"batch_size": 2})


def test_a_run_that_ends_early_logs_its_last_steps(text, tmp_path):
    console = tiny_runs.quiet()
    model = tiny_runs.make(jaxlm.RNN, text)
    options = STALLS | {"patience": 2, "eval_every": 3, "log_every": 7, "steps": 100}
    options |= {"batch_size": 4, "bptt": 5}
    tiny_runs.fit(model, text, tmp_path / "run", console=console, **options)
    last = tiny_runs.records(tmp_path / "run", "valid")[-1]["step"]
    steps = [record["step"] for record in tiny_runs.records(tmp_path / "run", "train")]
    assert steps[-1] == last < 100
    assert "2 validations in a row brought no improvement" in console.file.getvalue()
    # A session that takes no step adds no record.
    tiny_runs.fit(model, text, tmp_path / "run", resume=True, **options)
    again = [record["step"] for record in tiny_runs.records(tmp_path / "run", "train")]
    assert again == steps
