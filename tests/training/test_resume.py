"""A run that is stopped and resumed equals an uninterrupted run, to the last bit."""

import json
import shutil
import signal
from typing import NamedTuple

import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm.data.batching import BatchingConfig
from jaxlm.training import loop


class Family(NamedTuple):
    """A model, its sizes, its batching, and its options of training."""

    kind: type
    sizes: dict
    batching: BatchingConfig
    options: dict


STREAMS = BatchingConfig("streams", 6, 8)
STEPS = {"steps": 60, "log_every": 5, "eval_every": 15, "checkpoint_every": 16, "seed": 4}
# With a rate that only increases, a run learns at first and gets worse later.
RISING = {"lr": 3.0, "warmup_steps": 60}
FAMILIES = {
    "lstm-streams": Family(jaxlm.LSTM, {"dropout": 0.3}, STREAMS, RISING | {"clip": 1.0}),
    "varied": Family(
        jaxlm.LSTM,
        {"weight_drop": 0.3, "variational": True},
        BatchingConfig("streams", 6, 8, vary_bptt=True),
        {"optimizer": "sgd", "lr": 5.0, "average": "triggered", "trigger_after": 1},
    ),
    "gru-streams": Family(
        jaxlm.GRU,
        {"tied": True},
        STREAMS,
        {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "step-decay", "full_epochs": 1},
    ),
    "nplm-windows": Family(
        jaxlm.NPLM,
        {"n_step": 3},
        BatchingConfig("windows", 16),
        RISING | {"optimizer": "momentum", "schedule": "plateau"},
    ),
    "rnn-rows": Family(
        jaxlm.RNN, {}, BatchingConfig("rows", 16), {"optimizer": "sgd", "lr": 5.0, "average": "ema"}
    ),
}


class PowerCut(Exception):
    pass


def cut():
    raise PowerCut


def train(name, text, folder, **options):
    family = FAMILIES[name]
    model = tiny_runs.make(family.kind, text, **family.sizes)
    options = STEPS | family.options | options
    return tiny_runs.fit(model, text, folder, batching=family.batching, **options)


def last_step(folder):
    return tiny_runs.whole_state(folder)[1]["step"]


@pytest.fixture(scope="module")
def uninterrupted(text, tmp_path_factory):
    """uninterrupted(name) -> the folder of a family's uninterrupted run, and the run."""
    runs = {}

    def run_of(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp("whole") / name
            runs[name] = folder, train(name, text, folder)
        return runs[name]

    return run_of


QUICK = ("lstm-streams", "rnn-rows")


@pytest.mark.quick_for("lstm")
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES],
)
def test_a_run_stopped_in_three_ways_equals_an_uninterrupted_run(
    name, text, tmp_path, uninterrupted, monkeypatch
):
    whole, finished = uninterrupted(name)
    folder = tmp_path / "run"
    train(name, text, folder, steps=30, checkpoint_every=13)
    assert last_step(folder) == 30

    with monkeypatch.context() as patch:
        # A dispatch has a single step, so that the run stops between two checkpoints.
        patch.setattr(loop, "DISPATCH_SECONDS", 0)
        console = tiny_runs.ActingConsole("step     35  epoch", tiny_runs.terminate)
        run = train(name, text, folder, resume=True, console=console)
    assert run.stopped_by == signal.SIGTERM
    assert last_step(folder) == 36

    with pytest.raises(PowerCut):
        train(
            name,
            text,
            folder,
            resume=True,
            console=tiny_runs.ActingConsole("step     60  epoch", cut),
        )
    # The resumed run writes the records since the last checkpoint again.
    assert last_step(folder) == 48
    assert tiny_runs.records(folder)[-1]["step"] == 55

    console = tiny_runs.ActingConsole("resumed at step 48 of 60", lambda: None)
    run = train(name, text, folder, resume=True, console=console)
    assert any(console.words in line for line in console.lines)
    tiny_runs.assert_same_run(folder, whole)
    assert (run.step, run.stopped_by) == (finished.step, 0)
    tiny_runs.assert_same_arrays(run.params, finished.params)
    # The seconds of a session go on from those of the session before.
    lines = (folder / "timing.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds)


@pytest.mark.full
def test_resume_of_a_finished_run_changes_nothing(text, tmp_path, uninterrupted):
    whole, finished = uninterrupted("lstm-streams")
    folder = shutil.copytree(whole, tmp_path / "run")
    run = train("lstm-streams", text, folder, resume=True)
    tiny_runs.assert_same_run(folder, whole)
    tiny_runs.assert_same_arrays(run.params, finished.params)


@pytest.mark.full
def test_the_best_parameters_are_kept_when_a_run_gets_worse(uninterrupted):
    folder, run = uninterrupted("lstm-streams")
    losses = {record["step"]: record["nll"] for record in tiny_runs.records(folder, "valid")}
    best = min(losses, key=losses.get)
    assert best < max(losses), "this test needs a run that gets worse"
    assert run.step == best == jaxlm.load(folder).step
    tiny_runs.assert_same_arrays(run.params, jaxlm.load(folder).params)
    last = {
        name.removeprefix(".params"): array
        for name, array in tiny_runs.whole_state(folder)[0].items()
        if name.startswith(".params")
    }
    best = tiny_runs.named_arrays(run.params)
    assert last.keys() == best.keys()
    assert any((last[name] != best[name]).any() for name in best)


@pytest.mark.full
def test_plateau_halves_the_rate_after_each_validation_without_improvement(uninterrupted):
    folder, _ = uninterrupted("nplm-windows")
    nll = [record["nll"] for record in tiny_runs.records(folder, "valid")]
    worse = sum(now >= min(nll[:index]) for index, now in enumerate(nll) if index)
    state, meta = tiny_runs.whole_state(folder)
    assert worse > 0, "this test needs a run that stalls"
    np.testing.assert_allclose(state[".lr_scale"], 0.5**worse)
    assert meta["progress"]["worse_since_decay"] == 0


@pytest.mark.quick_for("5")
@pytest.mark.parametrize("seed", [4, 5])
def test_a_run_depends_only_on_the_seed(seed, text, tmp_path, uninterrupted):
    whole, finished = uninterrupted("gru-streams")
    run = train("gru-streams", text, tmp_path / "run", seed=seed)
    if seed == 4:
        tiny_runs.assert_same_run(tmp_path / "run", whole)
    else:
        metrics = [(folder / "metrics.jsonl").read_bytes() for folder in (tmp_path / "run", whole)]
        assert metrics[0] != metrics[1]
        with pytest.raises(AssertionError, match="not the same bytes"):
            tiny_runs.assert_same_arrays(run.params, finished.params)
