"""The training loop: dispatch, measure, validate, keep; for one run, or several side by side."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from rich.console import Console

from jaxlm.data.batching import Batches, BatchingConfig, make_batches
from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.models.neural import NeuralModel
from jaxlm.parallel.mesh import Mesh, block_if_needed, check_divides, make_mesh, rows_here, use_mesh
from jaxlm.parallel.multihost import allgather_ints, is_first
from jaxlm.runs.log import Log, Watch, check_tensorboard
from jaxlm.runs.run import Run
from jaxlm.training.averaging import make_average
from jaxlm.training.budget import Budget, fitted, horizon_of, with_saved_steps
from jaxlm.training.dispatch import capacity_of, next_count
from jaxlm.training.folders import (
    claim_folders,
    describe_again,
    fetch_folders,
    record_session,
    session_of,
)
from jaxlm.training.interrupts import Interrupts
from jaxlm.training.optimizers import OptimizerConfig, make_optimizer
from jaxlm.training.progress import NotFiniteError, TrainingConfig, total_steps
from jaxlm.training.state import TrainState, init_state
from jaxlm.training.step import StepMetrics, make_train_block
from jaxlm.training.sweep import Fleet, check_fleet
from jaxlm.training.timetable import Timetable
from jaxlm.training.trainee import Member, Settings, settings_of

T = TypeVar("T")


def fit_by_gradient(
    model: NeuralModel,
    text: Text,
    *,
    batching: BatchingConfig | str = "streams",
    optimizer: OptimizerConfig | str = "adam",
    training: TrainingConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    console: Console | None = None,
    mesh: Mapping[str, int] | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Run:
    """Trains a neural model; see `jaxlm.fit`. `options` are fields of the three configs by name.

    Raises UserError for a setting that cannot work, a loss that is not finite, and a disk that is
    full.
    """
    settings = settings_of(model, batching, optimizer, training, folder, config, options)
    (run,) = train([settings], text, resume, console, mesh, watch)
    return run


def train(
    runs: Sequence[Settings],
    text: Text,
    resume: bool,
    console: Console | None,
    mesh: Mapping[str, int] | None = None,
    watch: Watch | None = None,
) -> list[Run]:
    """Trains one run, or several that differ in what `fleet` knows, in one compiled function; one
    on a mesh of these sizes (none: of all devices), several on one device.
    """
    check_fleet(runs)
    found = make_mesh(mesh) if len(runs) == 1 else None
    try:
        with use_mesh(found):
            return _Loop(list(runs), text, found, watch).run(resume, console)
    except _ApartError as apart:
        # Killed between two of their checkpoints: those at one step go on together.
        done: list[Run] = []
        for group in apart.groups:
            done += train(group, text, resume, console)
            if done[-1].stopped_by:
                break
        return done


class _ApartError(Exception):
    """The runs to be resumed are at different steps; groups: those at one step each."""

    def __init__(self, groups: list[list[Settings]]) -> None:
        super().__init__(groups)
        self.groups = groups


class _Loop:
    """One call of `train`."""

    def __init__(
        self, runs: list[Settings], text: Text, mesh: Mesh | None, watch: Watch | None
    ) -> None:
        self.runs, self.text, self.first, self.mesh = runs, text, runs[0], mesh
        self.watch = watch if is_first() else None
        check_divides(mesh, self.first.batching.batch_size, self.first.model.vocab_size)
        self.batches = [self._batches(run) for run in runs]
        training = self.first.training
        asked = total_steps(training, self.batches[0].steps_per_epoch)
        self.budget = Budget(training.max_minutes, None if training.steps else asked)
        for run in runs:
            self._plan(run)
        self.members: list[Member] = []

    def _batches(self, run: Settings) -> Batches:
        n_step = (run.model.context_size or run.batching.bptt - 1) + 1
        rows_B = rows_here(self.mesh, run.batching.batch_size)
        return make_batches(self.text.train, run.batching, n_step, run.training.seed, rows_B)

    def _plan(self, run: Settings) -> None:
        """How many steps there are, and what depends on it. Raises UserError for what cannot be."""
        training, per_epoch = run.training, self.batches[0].steps_per_epoch
        total = total_steps(training, per_epoch)
        self.horizon = horizon_of(training, per_epoch, total)
        self.transform = make_optimizer(run.optimizer, self.horizon)
        make_average(run.optimizer)
        validates = self.text.valid is not None and len(self.text.valid) > 0
        eval_every = (training.eval_every or per_epoch) if validates else None
        keeps = training.checkpoint_every or eval_every or max(1000, per_epoch)
        self.timetable = Timetable(total, eval_every, keeps if run.folder else None)

    def run(self, resume: bool, console: Console | None) -> list[Run]:
        """The whole of training."""
        if self.first.training.tensorboard:
            check_tensorboard()
        self._claim(resume)
        self._plan(self.first)
        # Made only now: a folder that is refused must be left as it was.
        self.members = [self._member(run, console, place) for place, run in enumerate(self.runs)]
        first, per_epoch = self.members[0], self.batches[0].steps_per_epoch
        notes = self.first.model.notes() + self.budget.notes(self.timetable.total, per_epoch)
        for note in notes:
            first.log.note(note)
        try:
            with first.log, Interrupts() as interrupts:
                states = self._train(self._start(resume), interrupts)
                if interrupts.received:
                    total = self.timetable.total
                    first.log.note(f"stopped at step {first.step} of {total}; saved")
        finally:
            for member in self.members:
                member.close()
        finished = zip(self.members, states, strict=True)
        return [one.run(state, interrupts.received) for one, state in finished if not one.failed]

    def _member(self, run: Settings, console: Console | None, place: int) -> Member:
        name = run.folder.name if run.folder else f"run {place}"
        label, alone = f"{name}: ", len(self.runs) == 1
        total, tensorboard = self.timetable.total, run.training.tensorboard
        told = (run.folder, console) if is_first() else (None, Console(quiet=True))
        shown = {"label": "" if alone else label, "live": place == 0}
        log = Log(*told, total, tensorboard, **shown, watch=self.watch)  # type: ignore[arg-type]
        per_epoch = self.batches[0].steps_per_epoch
        return Member(run, self.text, log, self.timetable, per_epoch, self.mesh)

    def _claim(self, resume: bool) -> None:
        """Makes the folders these runs', and finds how many steps fit into a budget."""
        if resume:
            fetch_folders(self.runs)
            # What the first process finds, which alone may have the folder.
            steps = with_saved_steps(self.first.training, self.first.folder).steps
            self._set_steps(int(allgather_ints([steps or 0])[0, 0]) or None)
        training = self.first.training
        claim_folders(self.runs, self.text, resume)
        record_session(self.runs, session_of(self.mesh))
        if training.max_minutes and not training.steps:
            settings = self.batches[0], self.first.optimizer, len(self.runs), self.mesh
            found = fitted(training, self.first.model, self.text, *settings)
            self._set_steps(int(allgather_ints([found.steps or 0])[0, 0]))
            describe_again(self.runs, self.text)

    def _set_steps(self, steps: int | None) -> None:
        self.runs = [replace(run, training=replace(run.training, steps=steps)) for run in self.runs]
        self.first = self.runs[0]

    def _start(self, resume: bool) -> list[TrainState]:
        average, batch_size = make_average(self.first.optimizer), self.batches[0].batch_size
        states = []
        for run, member in zip(self.runs, self.members, strict=True):
            key = jax.random.key(run.training.seed)
            start = average.start if average else None
            made = init_state(run.model, self.transform, key, batch_size, start, self.mesh)
            states.append(member.start(made, resume))
        groups: dict[int, list[Settings]] = {}
        for run, member in zip(self.runs, self.members, strict=True):
            groups.setdefault(member.step, []).append(run)
        if len(groups) > 1:
            raise _ApartError(list(groups.values()))
        self.budget.spent_before = self.members[0].meter.progress.seconds
        return states

    def _train(self, states: list[TrainState], interrupts: Interrupts) -> list[TrainState]:
        fleet = self._fleet()
        batches = self.batches[0]
        capacity = capacity_of(len(self.runs) * batches.batch_size * batches.length)
        pending: tuple[int, int, Any] | None = None
        count, dispatched = 1, self.members[0].step
        state = fleet.together(states)
        while dispatched < self.timetable.total and (count := self._next(count, interrupts)):
            began = time.perf_counter()
            count = min(count, capacity, self.timetable.until_pause(dispatched))
            block = fleet.together([one.block(dispatched, count, capacity) for one in self.batches])
            state, metrics = fleet.block(state, block, count)
            if not self.budget.compile_seconds:
                self.budget.compile_seconds = time.perf_counter() - began
            if pending:
                # Read one dispatch late: the device is already at work on the next.
                self._measured(*pending)
            pending = (dispatched, count, fleet.apart(metrics))
            block_if_needed(self.mesh, metrics)
            dispatched += count
            if self._refitted(dispatched):
                fleet = self._fleet()
            save = self._saving_is_due()
            if save or self.timetable.until_pause(dispatched - 1) == 1:
                self._measured(*pending)
                pending = None
                state = self._pause(state, fleet, save)
            count = next_count(count, time.perf_counter() - began)
        if pending:
            self._measured(*pending)
        states = fleet.apart(state)
        for member, one in zip(self.members, states, strict=True):
            self._unless_it_fails(member, partial(member.finish, one, self.budget))
        return states

    def _next(self, count: int, interrupts: Interrupts) -> int:
        """Steps of the next dispatch, at most; 0: none. Where several processes train, it is the
        first one's clock that counts, and whichever is told to stop, all stop.
        """
        said = allgather_ints([count, interrupts.received, self._enough()])
        interrupts.received = int(said[:, 1].max())
        return 0 if interrupts.received or said[0, 2] else int(said[0, 0])

    def _saving_is_due(self) -> bool:
        if self.first.training.checkpoint_minutes is None:
            return False
        return bool(allgather_ints([self.members[0].saving_is_due])[0, 0])

    def _refitted(self, step: int) -> bool:
        """Whether the run has another number of steps from now on, by what they took until now."""
        steps = self.budget.refitted(step, self.timetable.total)
        if self.budget.minutes:
            steps = int(allgather_ints([steps])[0, 0])
        if steps == self.timetable.total:
            return False
        self._set_steps(steps)
        self._plan(self.first)
        for run, member in zip(self.runs, self.members, strict=True):
            member.refit(run, self.timetable)
        describe_again(self.runs, self.text)
        epochs = steps / self.batches[0].steps_per_epoch
        note = f"step {step:6d}  fitted anew to {self.budget.minutes:g} minutes: {steps:,} steps"
        self.members[0].log.note(f"{note}, {epochs:.2f} epochs")
        return True

    def _fleet(self) -> Fleet:
        average = make_average(self.first.optimizer)
        options = {
            "varied": self.batches[0].varied,
            "share": average.share if average else None,
        }
        positions = self.batches[0].positions
        if len(self.runs) > 1:
            return Fleet.of_many(self.runs, self.horizon, positions, **options)  # type: ignore[arg-type]
        key = jax.random.key(self.first.training.seed)
        model, transform = self.first.model, self.transform
        block = make_train_block(model, transform, key, positions, mesh=self.mesh, **options)  # type: ignore[arg-type]
        return Fleet.of_one(block)

    def _measured(self, first: int, count: int, metrics: Sequence[StepMetrics]) -> None:
        for member, one in zip(self.members, metrics, strict=True):
            self._unless_it_fails(member, partial(member.measured, first, count, one))

    def _unless_it_fails(self, member: Member, do: Callable[[], T]) -> T | None:
        """A run whose loss is not finite is out, and the others go on; if all are, it is an error.
        None for one that is out.
        """
        if member.failed:
            return None
        try:
            return do()
        except NotFiniteError as error:
            member.failed = error
            if all(one.failed for one in self.members):
                raise UserError(member.advice(error)) from None
            member.log.warn(f"out: {member.advice(error)}")
            return None

    def _pause(self, state: TrainState, fleet: Fleet, save: bool) -> TrainState:
        with self.members[0].log.clock_stopped():
            before, after = fleet.apart(state), []
            for member, one in zip(self.members, before, strict=True):
                pause = partial(member.pause, one, self.budget, save=save)
                paused = self._unless_it_fails(member, pause)
                after.append(one if paused is None else paused)
            return fleet.together(after)

    def _enough(self) -> bool:
        """Whether patience, or the budget, is at its end."""
        waiting = [member for member in self.members if not member.failed]
        return self.budget.over or all(member.out_of_patience for member in waiting)
