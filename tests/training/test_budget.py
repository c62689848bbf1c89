"""`max_minutes`: the number of steps that fit, schedules over these steps, the end of the time."""

import contextlib
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny_runs

import jaxlm
from jaxlm.data.batching import make_batches
from jaxlm.errors import UserError
from jaxlm.evaluation.scoring import Scorer
from jaxlm.runs.log import read_records
from jaxlm.training import budget
from jaxlm.training.budget import Budget, horizon_of
from jaxlm.training.config import TrainingConfig
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer, make_schedule
from jaxlm.training.state import init_state
from jaxlm.training.step import make_train_block


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tiny_runs.write_text(folder / "train.txt", 300, seed=1)
    tiny_runs.write_text(folder / "valid.txt", 40, seed=2)
    return jaxlm.read_corpus(str(folder))


def train(text, folder=None, **options):
    settings = {"batch_size": 4, "bptt": 5, "optimizer": "sgd", "log_every": 10}
    model = tiny_runs.make(jaxlm.RNN, text)
    return tiny_runs.fit(model, text, folder, **settings | options)


def steps_one_by_one(seconds, per_step, per_pause, eval_every, step):
    """Count the steps that fit, with a pause after each step whose number is a multiple."""
    trained = 0
    while seconds >= per_step:
        seconds -= per_step
        trained += 1
        if (step + trained) % eval_every == 0:
            seconds -= per_pause
    return trained


@pytest.mark.parametrize("step", [0, 7, 10])
@pytest.mark.parametrize("seconds", [0, 3, 10, 11, 14, 25, 26, 29, 40, 41, 1000])
def test_the_steps_that_fit_are_those_of_a_clock(seconds, step):
    # Whole numbers, so that no sum is rounded.
    found = budget._steps_within(float(seconds), 1.0, 4.0, 10, step)
    assert found == steps_one_by_one(seconds, 1, 4, 10, step)


def test_a_budget_of_a_thousand_years_is_counted_at_once():
    found = budget._steps_within(6e10, 5e-3, 0.05, 100, 0)
    assert found == pytest.approx(6e10 / 0.55 * 100, rel=1e-6)


def training_of(folder):
    return json.loads((folder / "config.json").read_text())["training"]


@pytest.fixture
def no_timing(monkeypatch):
    """no_timing(step, validation): seconds of a step and of a validation, in place of measuring."""

    def set_seconds(step, validation):
        monkeypatch.setattr(budget, "_seconds_per_step", lambda *_: step)
        monkeypatch.setattr("jaxlm.training.loop.validation_seconds", lambda *_: validation)

    return set_seconds


@pytest.mark.full
def test_the_steps_fit_into_the_minutes(text, tmp_path, no_timing):
    no_timing(1.0, 0.0)
    train(text, tmp_path / "run", epochs=100, max_minutes=1, eval_every=20)
    steps = training_of(tmp_path / "run")["steps"]
    assert 50 <= steps <= 58
    assert tiny_runs.records(tmp_path / "run")[-1]["step"] == steps
    # Every 20 steps there is a validation, which takes as long as 20 steps. After 20 steps and the
    # last validation, there is no time for a step and another validation.
    no_timing(1.0, 20.0)
    train(text, tmp_path / "few", epochs=100, max_minutes=1, eval_every=20)
    assert training_of(tmp_path / "few")["steps"] == 20


@pytest.mark.full
def test_there_are_no_more_steps_than_epochs_allow(text, tmp_path, no_timing):
    no_timing(1e-6, 0.0)
    train(text, tmp_path / "run", epochs=0.5, max_minutes=10)
    asked = training_of(tmp_path / "run")["steps"]
    written = tiny_runs.records(tmp_path / "run", "train")
    assert written[-1]["epoch"] == pytest.approx(0.5, abs=0.01)
    # With this number of steps the run is repeated without timing.
    no_timing(None, None)
    console = tiny_runs.quiet()
    train(text, tmp_path / "again", epochs=0.5, max_minutes=10, steps=asked, console=console)
    assert "allows" not in console.file.getvalue()
    records = [tiny_runs.records(tmp_path / name) for name in ("run", "again")]
    assert records[0] == records[1]


@pytest.mark.full
def test_steps_and_validations_are_timed(text, monkeypatch):
    model = tiny_runs.make(jaxlm.RNN, text)
    batches = make_batches(text.train, jaxlm.BatchingConfig(batch_size=4, bptt=5), 5, 0)
    optimizer = make_optimizer(OptimizerConfig(), Horizon(10, 10))
    key = jax.random.key(0)
    block = make_train_block(model, optimizer, key, batches.positions)
    state = init_state(model, optimizer, key, batches.batch_size)
    most = 10**6 * batches.steps_per_epoch
    monkeypatch.setattr(budget, "TIMED_SECONDS", 0.2)
    seconds = budget.validation_seconds(model, text, None)
    assert 0 < seconds < 10
    steps = Budget(0.3).first_fit(
        block, state, batches, lambda: seconds, most_steps=most, eval_every=100
    )
    assert 0 < steps < most


def test_a_run_validates_saves_and_stops_when_the_time_is_over(
    text, tmp_path, no_timing, monkeypatch
):
    """If `steps` takes longer than `max_minutes`, the run validates, saves, and stops."""
    seconds = iter(range(0, 10**6, 10))
    monkeypatch.setattr(Budget, "seconds", property(lambda self: float(next(seconds))))
    console = tiny_runs.quiet()
    train(text, tmp_path / "run", steps=10**5, max_minutes=2, eval_every=10**5, console=console)
    last = tiny_runs.records(tmp_path / "run")[-1]
    assert last["split"] == "valid"
    assert last["step"] < training_of(tmp_path / "run")["steps"]
    assert "the 2 minutes of `max_minutes` are over" in console.file.getvalue()
    assert jaxlm.load(tmp_path / "run").step == last["step"]


@pytest.mark.full
@pytest.mark.parametrize("validated", [True, False])
def test_a_resume_does_not_extend_a_spent_budget(validated, text, tmp_path):
    """A resume after the end of the budget neither validates again nor adds a record."""
    options = {"steps": 10**6, "max_minutes": 0.02}
    if validated:
        options["eval_every"] = 10**6
    shown = text if validated else replace(text, splits={"train": text.train})
    run = train(shown, tmp_path / "run", **options)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    # On a slow machine the budget is spent before the first step.
    splits = [record["split"] for record in read_records(tmp_path / "run/metrics.jsonl")]
    assert splits.count("valid") == validated
    again = train(shown, tmp_path / "run", resume=True, **options)
    tiny_runs.assert_same_arrays(run.params, again.params)
    after = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path: path.read_bytes() for path in after} == before


@pytest.mark.full
def test_the_pause_of_all_runs_of_a_sweep_is_timed_as_a_whole(text, monkeypatch):
    """At the end of the budget all runs validate, so the pause of all runs is timed."""
    events, timing, split = [], Budget.timing_validation, Scorer.split

    @contextlib.contextmanager
    def timed(self):
        events.append("begin")
        with timing(self):
            yield
        events.append("end")

    def scored(self, *arguments):
        events.append("validation")
        return split(self, *arguments)

    monkeypatch.setattr(Budget, "timing_validation", timed)
    monkeypatch.setattr(Scorer, "split", scored)
    model, options = tiny_runs.make(jaxlm.RNN, text), {"batch_size": 4, "bptt": 5}
    jaxlm.fit_many(model, text, seeds=2, steps=2, max_minutes=9.0, quiet=True, **options)
    assert events == ["begin", "validation", "validation", "end"]


@pytest.fixture
def pace(monkeypatch):
    """pace(seconds): seconds of a step during training."""

    def set_seconds(seconds):
        taken = [0]
        refit = Budget.refit

        def steps(self, step, total, eval_every, done):
            taken[0] = step
            return refit(self, step, total, None)

        monkeypatch.setattr(Budget, "refit", steps)
        monkeypatch.setattr(Budget, "seconds", property(lambda self: seconds * taken[0]))
        monkeypatch.setattr("jaxlm.training.loop.next_count", lambda count, seconds: 2)
        nothing = property(lambda self: 1e-9, lambda self, seconds: None)
        monkeypatch.setattr(Budget, "compile_seconds", nothing, raising=False)

    return set_seconds


@pytest.mark.full
@pytest.mark.parametrize(
    ("real", "least", "most"), [(2.0, 26, 30), (0.5, 100, 119), (1.03, 57, 57)]
)
def test_a_run_is_fitted_again_if_its_pace_changes(
    text, tmp_path, no_timing, pace, real, least, most
):
    """A run is fitted again if its steps take longer or shorter than the estimate of 1 second.

    Then the schedule ends with the time. A small difference does not change the number of steps.
    """
    no_timing(1.0, 0.0)
    pace(real)
    options = {"epochs": 100, "max_minutes": 1, "schedule": "cosine", "lr": 1.0}
    console = tiny_runs.quiet()
    train(text, tmp_path / "run", **options, console=console)
    printed = console.file.getvalue()
    assert ("fitted again to 1 minutes" in printed) == (least != most)
    assert "are over" not in printed
    steps = training_of(tmp_path / "run")["steps"]
    assert tiny_runs.records(tmp_path / "run")[-1]["step"] == steps
    assert least <= steps <= most


@pytest.mark.parametrize(("compiling", "estimated", "fits"), [(2.0, 32, 26), (10.0, 28, 28)])
def test_a_small_change_of_steps_is_not_worth_a_compilation(
    monkeypatch, compiling, estimated, fits
):
    """The number of steps changes only if the change is larger than the time of a compilation.

    A step takes 2 s, and the run 60 s. A difference of 5 steps changes the number if compilation
    takes as long as 1 step. A difference of 4 steps does not if it takes as long as 5 steps.
    """
    now, total = 0.0, estimated
    monkeypatch.setattr(Budget, "seconds", property(lambda self: now))
    budget = Budget(1.0, most_steps=1000)
    budget.compile_seconds = compiling
    for step in range(1, 6):
        # The first step compiles, and so does the first step after a change.
        now += 2.0 + (compiling if step == 1 or (step == 4 and total != estimated) else 0.0)
        total = budget.refit(step, total)
        assert total == (fits if step > 2 else estimated)


@pytest.mark.parametrize(
    ("minutes", "step_seconds", "validation", "eval_every", "compiling"),
    [(6, 0.1, 20.0, 600, 5.0), (1, 0.1, 4.0, 100, 3.0), (6, 0.12, 5.0, 1327, 10.0)],
)
def test_a_steady_machine_is_not_fitted_again(
    monkeypatch, minutes, step_seconds, validation, eval_every, compiling
):
    """Validations are no change of the machine's speed, however few steps lie between them."""
    now = 0.0
    monkeypatch.setattr(Budget, "seconds", property(lambda self: now))
    monkeypatch.setattr(budget, "_seconds_per_step", lambda *_: step_seconds)
    fitted = Budget(minutes, most_steps=10**6)
    arguments = (None, None, None, lambda: validation)
    total = fitted.first_fit(*arguments, most_steps=10**6, eval_every=eval_every)
    step, count, now = 0, 1, compiling
    while step < total:
        taken = min(count, total - step, eval_every - step % eval_every)
        # A dispatch does not wait for the end of its steps.
        assert fitted.refit(step + taken, total, eval_every, done=step) == total
        now, step, count = now + taken * step_seconds, step + taken, min(8 * count, 200)
        if step % eval_every == 0 or step == total:
            with fitted.timing_pause(validates=True):
                # The first validation compiles.
                now += validation + (compiling / 4 if step == eval_every else 0)
            fitted.validation_seconds = validation
    assert 0.9 * 60 * minutes < now <= 60 * minutes


@pytest.mark.full
def test_the_schedule_ends_with_the_last_fit(text, no_timing, pace, monkeypatch):
    horizons = []

    def record(config, horizon, custom):
        horizons.append(horizon.total_steps)
        return make_optimizer(config, horizon, custom)

    monkeypatch.setattr("jaxlm.training.loop.make_optimizer", record)
    no_timing(1.0, 0.0)
    pace(2.0)
    run = train(text, epochs=100, max_minutes=1, schedule="cosine")
    assert horizons[-1] == run.settings["training"]["steps"] <= 30
    assert 57 in horizons


@pytest.mark.full
def test_a_resumed_run_keeps_its_steps_and_its_time(text, tmp_path, no_timing):
    no_timing(1.0, 0.0)
    options = {"epochs": 100, "max_minutes": 1, "eval_every": 20}
    train(text, tmp_path / "whole", **options)
    steps = training_of(tmp_path / "whole")["steps"]
    stopped = tiny_runs.ActingConsole("step     30  epoch", tiny_runs.terminate)
    train(text, tmp_path / "run", **options, steps=steps, console=stopped)
    # A resumed run does not time its steps again.
    no_timing(None, None)
    train(text, tmp_path / "run", **options, resume=True)
    assert training_of(tmp_path / "run")["steps"] == steps
    whole, run = (tiny_runs.whole_state(tmp_path / name) for name in ("whole", "run"))
    tiny_runs.assert_same_arrays(whole[0], run[0])
    assert run[1]["progress"]["seconds"] > 0


@pytest.mark.full
def test_the_first_process_decides_how_many_steps_are_timed(text, monkeypatch):
    """Processes that disagree on the number of steps would wait for each other without end."""
    answers = iter([[[1]], [[1]], [[0]]])
    monkeypatch.setattr(budget, "allgather_ints", lambda values: np.array(next(answers)))
    # By the clock of this process there is no time for a step.
    model = tiny_runs.make(jaxlm.RNN, text)
    batches = make_batches(text.train, jaxlm.BatchingConfig(batch_size=4, bptt=5), 5, 0)
    optimizer = make_optimizer(OptimizerConfig(), Horizon(10, 10))
    block = make_train_block(model, optimizer, jax.random.key(0), batches.positions)
    state = init_state(model, optimizer, jax.random.key(0), batches.batch_size)
    assert budget._seconds_per_step(block, state, batches, 0.0) > 0
    assert next(answers, None) is None


def test_schedules_shrink_with_the_run():
    """If 6 of 12 epochs fit, a rate that would decay from epoch 4 on decays from epoch 2 on."""
    optimizer = OptimizerConfig(schedule="step-decay", full_epochs=4, decay=0.5, lr=1.0)
    config = TrainingConfig(epochs=12, max_minutes=1)
    shrunk = make_schedule(optimizer, horizon_of(config, 100, 600))
    asked = make_schedule(optimizer, horizon_of(TrainingConfig(epochs=12), 100, 1200))
    for epoch in range(12):
        assert float(shrunk(epoch * 50 + 25)) == pytest.approx(float(asked(epoch * 100 + 50)))


def test_max_minutes_must_be_above_0(text):
    with pytest.raises(UserError, match="`max_minutes` 0: must be above 0"):
        train(text, max_minutes=0)


def test_more_epochs_in_the_same_minutes_are_trained(text, tmp_path, no_timing):
    no_timing(1e-4, 0.0)
    budget, console = {"max_minutes": 60, "eval_every": 1000}, tiny_runs.quiet()
    train(text, tmp_path / "run", epochs=0.5, **budget)
    half = training_of(tmp_path / "run")["steps"]
    train(text, tmp_path / "run", epochs=1, resume=True, **budget)
    assert training_of(tmp_path / "run")["steps"] >= 2 * half - 1
    budget["max_minutes"] = 90
    train(text, tmp_path / "run", epochs=1, resume=True, console=console, **budget)
    assert "has trained its 1 epochs: give a larger `epochs`" in console.file.getvalue()


@pytest.mark.full
def test_a_resumed_run_is_fitted_to_the_minutes_that_are_left(text, tmp_path, no_timing):
    """A run that was trained without a budget trains on for the minutes of the new command."""
    no_timing(1.0, 0.0)
    train(text, tmp_path / "run", steps=100)
    console = tiny_runs.quiet()
    budget = {"epochs": 100, "max_minutes": 1, "eval_every": 1000}
    train(text, tmp_path / "run", resume=True, console=console, **budget)
    steps = training_of(tmp_path / "run")["steps"]
    assert 140 <= steps <= 160 and f"allows {steps} steps" in console.file.getvalue()
    assert tiny_runs.records(tmp_path / "run", "train")[-1]["step"] == steps
    # The second minute was spent in an earlier session.
    console = tiny_runs.quiet()
    no_timing(1.0, 100.0)
    train(text, tmp_path / "run", resume=True, console=console, **budget | {"max_minutes": 1.1})
    assert "no further step fits into what is left of `max_minutes` 1.1" in console.file.getvalue()
    assert training_of(tmp_path / "run")["steps"] == steps


def test_the_warm_up_shrinks_with_the_minutes():
    config = TrainingConfig(max_minutes=1, epochs=10)
    horizon = horizon_of(config, 100, 50)
    rate = make_schedule(OptimizerConfig(lr=0.1, warmup_steps=300, schedule="cosine"), horizon)
    assert horizon.most_warmup == 10 and rate(10) == pytest.approx(0.1)
    assert rate(49) < 0.01
    # Without minutes, the settings decide.
    rate = make_schedule(OptimizerConfig(lr=0.1, warmup_steps=300), Horizon(100, 50))
    assert rate(30) == pytest.approx(0.01)
