"""--max-minutes: steps that fit, schedules that shrink with them, and an end when it is over."""

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


def training_of(folder):
    return json.loads((folder / "config.json").read_text())["training"]


@pytest.fixture
def no_timing(monkeypatch):
    """Steps and validations take what a test says: how long they take here is not its matter."""

    def say(step, validation):
        monkeypatch.setattr(budget, "_seconds_per_step", lambda *_: step)
        monkeypatch.setattr("jaxlm.training.loop.validation_seconds", lambda *_: validation)

    return say


def test_no_more_steps_than_fit(text, tmp_path, no_timing):
    no_timing(1.0, 0.0)
    train(text, tmp_path / "run", epochs=100, max_minutes=1, eval_every=20)
    steps = training_of(tmp_path / "run")["steps"]
    assert 50 <= steps <= 58
    assert tiny_runs.records(tmp_path / "run")[-1]["step"] == steps
    # A validation every 20 steps that takes as long as 20 of them halves the number.
    no_timing(1.0, 20.0)
    train(text, tmp_path / "half", epochs=100, max_minutes=1, eval_every=20)
    assert 25 <= training_of(tmp_path / "half")["steps"] <= 29


@pytest.mark.full
def test_no_more_steps_than_asked_for(text, tmp_path, no_timing):
    no_timing(1e-6, 0.0)
    train(text, tmp_path / "run", epochs=0.5, max_minutes=10)
    asked = training_of(tmp_path / "run")["steps"]
    written = [one for one in tiny_runs.records(tmp_path / "run") if one["split"] == "train"]
    assert written[-1]["epoch"] == pytest.approx(0.5, abs=0.01)
    # The steps found, given, repeat the run: nothing is timed.
    no_timing(None, None)
    console = tiny_runs.quiet()
    train(text, tmp_path / "again", epochs=0.5, max_minutes=10, steps=asked, console=console)
    assert "allows" not in console.file.getvalue()
    records = [tiny_runs.records(tmp_path / name) for name in ("run", "again")]
    assert records[0] == records[1]


@pytest.mark.full
def test_what_is_really_timed(text, monkeypatch):
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


def test_an_end_when_the_time_is_over(text, tmp_path, no_timing, monkeypatch):
    """Steps that were given, and take longer than there is time for: the run validates once more,
    saves, and stops.
    """
    seconds = iter(range(0, 10**6, 10))
    monkeypatch.setattr(Budget, "seconds", property(lambda self: float(next(seconds))))
    console = tiny_runs.quiet()
    train(text, tmp_path / "run", steps=10**5, max_minutes=2, eval_every=10**5, console=console)
    last = tiny_runs.records(tmp_path / "run")[-1]
    assert last["split"] == "valid"
    assert last["step"] < training_of(tmp_path / "run")["steps"]
    assert "the 2 minutes of `max_minutes` are over" in console.file.getvalue()
    assert jaxlm.load(tmp_path / "run").step == last["step"]


@pytest.mark.parametrize("validated", [True, False])
def test_a_budget_that_is_spent_stays_spent(validated, text, tmp_path):
    """Each resume validated the last step again, and added a record."""
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


def test_the_pause_of_all_runs_of_a_sweep_is_timed_as_a_whole(text, monkeypatch):
    """At the end of the budget every run validates, so there must be time left for all of them."""
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
    """A step takes as many seconds as a test says, once the run is on its way."""

    def say(seconds):
        taken = [0]
        refit = Budget.refit

        def steps(self, step, total):
            taken[0] = step
            return refit(self, step, total)

        monkeypatch.setattr(Budget, "refit", steps)
        monkeypatch.setattr(Budget, "seconds", property(lambda self: seconds * taken[0]))
        monkeypatch.setattr("jaxlm.training.loop.next_count", lambda count, seconds: 2)
        nothing = property(lambda self: 1e-9, lambda self, seconds: None)
        monkeypatch.setattr(Budget, "compile_seconds", nothing, raising=False)

    return say


@pytest.mark.full
@pytest.mark.parametrize(
    ("real", "least", "most"), [(2.0, 26, 30), (0.5, 100, 119), (1.03, 57, 57)]
)
def test_a_machine_that_is_not_as_fast_as_it_was(
    text, tmp_path, no_timing, pace, real, least, most
):
    """A step was thought to take a second: the run is fitted again, so that its schedule comes to
    its end with the budget; what is off by little is left.
    """
    no_timing(1.0, 0.0)
    pace(real)
    options = {"epochs": 100, "max_minutes": 1, "schedule": "cosine", "lr": 1.0}
    console = tiny_runs.quiet()
    train(text, tmp_path / "run", **options, console=console)
    said = console.file.getvalue()
    assert ("fitted again to 1 minutes" in said) == (least != most)
    assert "are over" not in said
    steps = training_of(tmp_path / "run")["steps"]
    assert tiny_runs.records(tmp_path / "run")[-1]["step"] == steps
    assert least <= steps <= most


@pytest.mark.parametrize(("compiling", "thought", "fits"), [(2.0, 32, 26), (10.0, 28, 28)])
def test_a_fit_is_changed_where_that_is_worth_its_compilation(
    monkeypatch, compiling, thought, fits
):
    """Steps of 2 s, 60 s in all: a fit that is 5 steps off is changed where compiling anew takes
    one, and one 4 steps off is left where it takes five.
    """
    now, total = 0.0, thought
    monkeypatch.setattr(Budget, "seconds", property(lambda self: now))
    budget = Budget(1.0, most_steps=1000)
    budget.compile_seconds = compiling
    for step in range(1, 6):
        # The first, and the one after a change, compile.
        now += 2.0 + (compiling if step == 1 or (step == 4 and total != thought) else 0.0)
        total = budget.refit(step, total)
        assert total == (fits if step > 2 else thought)


@pytest.mark.full
def test_the_rate_ends_with_the_steps_that_a_run_was_fitted_to_last(
    text, no_timing, pace, monkeypatch
):
    horizons = []

    def seen(config, horizon, custom):
        horizons.append(horizon.total_steps)
        return make_optimizer(config, horizon, custom)

    monkeypatch.setattr("jaxlm.training.loop.make_optimizer", seen)
    no_timing(1.0, 0.0)
    pace(2.0)
    run = train(text, epochs=100, max_minutes=1, schedule="cosine")
    assert horizons[-1] == run.settings["training"]["steps"] <= 30
    assert 57 in horizons


@pytest.mark.full
def test_a_resumed_run_keeps_its_steps_and_counts_what_was_spent(text, tmp_path, no_timing):
    no_timing(1.0, 0.0)
    options = {"epochs": 100, "max_minutes": 1, "eval_every": 20}
    train(text, tmp_path / "whole", **options)
    steps = training_of(tmp_path / "whole")["steps"]
    stopped = tiny_runs.Saboteur("step     30  epoch", tiny_runs.terminate)
    train(text, tmp_path / "run", **options, steps=steps, console=stopped)
    # What a step takes is not asked again.
    no_timing(None, None)
    train(text, tmp_path / "run", **options, resume=True)
    assert training_of(tmp_path / "run")["steps"] == steps
    whole, run = (tiny_runs.whole_state(tmp_path / name) for name in ("whole", "run"))
    tiny_runs.assert_same_arrays(whole[0], run[0])
    assert run[1]["progress"]["seconds"] > 0


@pytest.mark.full
def test_the_first_process_decides_how_many_steps_are_timed(text, monkeypatch):
    """Processes whose clocks differ would not take the same steps, and wait for each other."""
    answers = iter([[[1]], [[1]], [[0]]])
    monkeypatch.setattr(budget, "allgather_ints", lambda values: np.array(next(answers)))
    # By the clock of this process there would be no step.
    monkeypatch.setattr(budget, "TIMED_SECONDS", 0.0)
    model = tiny_runs.make(jaxlm.RNN, text)
    batches = make_batches(text.train, jaxlm.BatchingConfig(batch_size=4, bptt=5), 5, 0)
    optimizer = make_optimizer(OptimizerConfig(), Horizon(10, 10))
    block = make_train_block(model, optimizer, jax.random.key(0), batches.positions)
    state = init_state(model, optimizer, jax.random.key(0), batches.batch_size)
    assert budget._seconds_per_step(block, state, batches) > 0
    assert next(answers, None) is None


def test_schedules_shrink_with_the_run():
    """A rate that was to fall from epoch 4 of 12 on falls from epoch 2 on in 6."""
    optimizer = OptimizerConfig(schedule="step-decay", full_epochs=4, decay=0.5, lr=1.0)
    config = TrainingConfig(epochs=12, max_minutes=1)
    shrunk = make_schedule(optimizer, horizon_of(config, 100, 600))
    asked = make_schedule(optimizer, horizon_of(TrainingConfig(epochs=12), 100, 1200))
    for epoch in range(12):
        assert float(shrunk(epoch * 50 + 25)) == pytest.approx(float(asked(epoch * 100 + 50)))


def test_minutes_that_cannot_be(text):
    with pytest.raises(UserError, match="`max_minutes` 0: must be above 0"):
        train(text, max_minutes=0)
