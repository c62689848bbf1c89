"""The training loop: plan, claim the folders, start or restore, dispatch and pause, finish.

The loop trains one run, or several runs that a `StepRunner` stacks; it is the same either way.
A block is the batches of several consecutive steps. A dispatch is one call of the compiled train
step on a block. At a pause point the loop reads the measurements, validates, and saves.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from rich.console import Console

from jaxlm.data.batching import Batches, make_batches
from jaxlm.data.digests import text_digests
from jaxlm.data.text import Text
from jaxlm.errors import SettingError, UserError
from jaxlm.models.neural import param_shapes
from jaxlm.ops.machine import (
    block_if_needed,
    check_fits,
    devices_memory,
    is_out_of_memory,
)
from jaxlm.parallel.mesh import (
    Mesh,
    check_divides,
    local_rows,
    make_mesh,
    put_like,
    use_mesh,
)
from jaxlm.parallel.multihost import allgather_ints, is_first, run_on_first
from jaxlm.runs.folder import claim_all
from jaxlm.runs.log import Callback, Log, check_tensorboard
from jaxlm.runs.run import Run
from jaxlm.runs.same_run import TEXT_DIGESTS
from jaxlm.runs.sessions import record_session, session_of
from jaxlm.training.averaging import make_average
from jaxlm.training.budget import Budget, horizon_of, saved_steps, validation_seconds
from jaxlm.training.config import check_valid_split, total_steps
from jaxlm.training.interrupts import Interrupts
from jaxlm.training.optimizers import (
    CustomParts,
    Horizon,
    Transform,
    check_schedule,
    frozen_mask,
    make_optimizer,
)
from jaxlm.training.progress import NotFiniteError
from jaxlm.training.samples import Samples, check_sample_every
from jaxlm.training.state import (
    TrainState,
    init_state,
    largest_param,
    state_bytes,
    trace_start,
)
from jaxlm.training.step import StepMetrics, StepRunner, make_train_block
from jaxlm.training.trainee import PausePoints, Saved, Spec, Trainee

T = TypeVar("T")

# A dispatch holds as many steps as take this long, so that the progress bar moves and Ctrl-C is
# heard. Each dispatch costs 10 to 30 ms on a CPU, where XLA allocates its working memory anew. For
# 2x650 units, two steps per dispatch are 2% faster than one step (9% in bfloat16), and eight steps
# are 13% faster (17%).
DISPATCH_SECONDS = 1.0
# Tokens in one block, at most: its int32 and float32 arrays then stay under about 12 MB.
BLOCK_TOKENS = 1 << 20


def capacity_of(tokens: int) -> int:
    """Return the number of steps that a block has room for; `tokens` is the tokens of a step."""
    return max(1, min(256, BLOCK_TOKENS // tokens))


def next_count(count: int, seconds: float) -> int:
    """Return the number of steps of the next dispatch, at most 8 · count.

    Args:
      count: number of steps of the last dispatch.
      seconds: the time that the last dispatch took.
    """
    return max(1, min(8 * count, int(count * DISPATCH_SECONDS / max(seconds, 1e-6))))


class RunnerMaker(Protocol):
    """Makes the StepRunner of several runs; see `sweep_runner` for the arguments."""

    def __call__(
        self,
        specs: Sequence[Spec],
        horizon: Horizon,
        positions: str,
        *,
        varied: bool,
        share: Any,
        custom: CustomParts | None,
    ) -> StepRunner: ...


class Extras(NamedTuple):
    """Arguments of `fit` that are not settings, so config.json does not have them.

    console: where lines are printed. callbacks: called with each log record. custom: the user's own
    optimizer or schedule. start_params: initial parameters; None for random initial parameters.
    name_runs: whether the records that callbacks get have the name of the run as `run`.
    sample_every: validations between two samples; see `Samples`.
    """

    console: Console | None = None
    callbacks: Sequence[Callback] = ()
    custom: CustomParts = CustomParts()
    start_params: Any = None
    name_runs: bool = False
    sample_every: int | None = None


def train_one(
    spec: Spec, text: Text, resume: bool, extras: Extras, mesh: Mapping[str, int] | None = None
) -> Run:
    """Train one run and return it.

    Args:
      spec: the model, the settings and the folder.
      text: the corpus.
      resume: whether to continue the run in the folder.
      extras: arguments that are not settings.
      mesh: sizes of the device mesh, such as {"data": 4, "model": 2}; None for all devices on data.
    """
    batching = spec.config.batching
    assert batching is not None
    devices = make_mesh(mesh, batch_size=batching.batch_size)
    spec = spec.resumed() if resume else spec
    here, used = jax.device_count(), 1 if devices is None else devices.size
    notes = []
    if mesh is None and used < here:
        size = batching.batch_size
        notes = [f"`batch_size` {size} does not split evenly over {here} devices: {used} train"]
    with use_mesh(devices):
        (run,) = _Loop([spec], text, devices, extras, None, notes).run(resume)
    return run


def train_many(
    specs: Sequence[Spec], text: Text, resume: bool, extras: Extras, make_runner: RunnerMaker
) -> list[Run]:
    """Train several runs in parallel on one device, and return those that did not fail.

    Args:
      specs: the runs.
      text: the corpus.
      resume: whether to continue the runs in the folders.
      extras: arguments that are not settings.
      make_runner: makes the runner of all runs.
    """
    specs = [spec.resumed() for spec in specs] if resume else specs
    return _Loop(list(specs), text, None, extras, make_runner).run(resume)


class _Loop:
    """One call of `train_one` or `train_many`."""

    def __init__(
        self,
        specs: list[Spec],
        text: Text,
        mesh: Mesh | None,
        extras: Extras,
        make_runner: RunnerMaker | None,
        notes: Sequence[str] = (),
    ) -> None:
        self.specs, self.text, self.mesh, self.extras = specs, text, mesh, extras
        self.make_runner, self.notes = make_runner, notes
        first, batching = specs[0], specs[0].config.batching
        assert batching is not None
        check_divides(mesh, batching.batch_size, first.model.vocab_size)
        self._check_freeze()
        self._check_validation()
        self.batches = [self._batches(spec) for spec in specs]
        training = self.training
        self.asked = total_steps(training, self.batches[0].steps_per_epoch)
        self.budget = Budget(training.max_minutes, None if training.steps else self.asked)
        for spec in specs:
            self._plan(spec)
        self._check_start()
        if first.folder and is_first():
            digests = {TEXT_DIGESTS: text_digests(text)}
            self.specs = [replace(spec, config=spec.config.with_about(**digests)) for spec in specs]
        self.changes: list[str] = []
        """Of each run that is resumed, the settings that changed; see `RunFolder.changes`."""
        self.trainees: list[Trainee] = []
        self.final_states: dict[int, TrainState] = {}
        """States of the runs that are out of patience, by index. Their rows in the stacked state
        are still trained, and are not used."""
        self.fits_rest = False
        """Whether a resumed run is fitted to its budget when its checkpoint is read."""
        self.stopped_by = 0
        """The signal that ended training before its last step, 0 if none did."""

    # Plan: how many steps there are, and when to pause.

    @property
    def first(self) -> Spec:
        """The first run, whose settings decide what all runs share."""
        return self.specs[0]

    @property
    def training(self) -> Any:
        """The training settings that all runs share."""
        return self.first.config.training

    @property
    def optimizer(self) -> Any:
        """The optimizer settings of the first run."""
        return self.first.config.optimizer

    def _check_freeze(self) -> None:
        """Raise SettingError if `freeze` matches no parameter."""
        pattern = self.optimizer.freeze
        if pattern is None:
            return
        mask = frozen_mask(param_shapes(self.first.model), pattern)
        if not any(jax.tree.leaves(mask)):
            paths = jax.tree_util.tree_leaves_with_path(mask)
            names = ["/".join(str(part.key) for part in path) for path, _ in paths]
            raise SettingError(
                "freeze", pattern, f"matches no parameter; there are {', '.join(names)}"
            )

    def _check_start(self) -> None:
        """Raise the error of a setting with which training cannot start."""
        model, config = self.first.model, self.first.config
        check_valid_split(self.text, config.protocol(model.start_id))
        if self.extras.custom.schedule is not None:
            check_schedule(self.extras.custom.schedule)
        trace_start(model, self.transform, self.batches[0].batch_size)
        self._check_memory()

    def _check_memory(self) -> None:
        """Raise UserError if the state of training is larger than the memory there is."""
        batches, runs = self.batches[0], len(self.specs)
        params, state = state_bytes(self.first.model, self.transform, batches.batch_size)
        if make_average(self.optimizer):
            state += params
        words = 4 * batches.batch_size * batches.length * self.first.model.embedding_size
        check_fits(
            "the parameters, their gradients, the state of the optimizer and the features of a "
            "batch",
            runs * (2 * params + state + words),
            devices_memory(),
            f"the largest array is {largest_param(self.first.model)}; a batch has "
            f"{batches.batch_size:,} x {batches.length:,} tokens",
        )

    def _check_validation(self) -> None:
        """Raise SettingError for a setting that needs validations, if there is no text for them."""
        check_sample_every(self.extras.sample_every, self._validates, jax.process_count())
        if self._validates:
            self._check_patience()
            return
        training, optimizer = self.training, self.optimizer
        asked = {
            "patience": training.patience,
            "eval_every": training.eval_every,
            "schedule": "plateau" if optimizer.schedule == "plateau" else None,
            "average": "triggered" if optimizer.average == "triggered" else None,
        }
        for name, value in asked.items():
            if value is not None:
                instead = "another" if isinstance(value, str) else "none"
                why = f"needs a validation split, which this text lacks: set `{name}` to {instead}"
                raise SettingError(name, value, f"{why}, or give the text a split (`fractions`)")

    @property
    def _validates(self) -> bool:
        """True if there is a validation text."""
        return self.text.valid is not None and len(self.text.valid) > 0

    def _batches(self, spec: Spec) -> Batches:
        batching, training = spec.config.batching, spec.config.training
        assert batching is not None and training is not None
        context = spec.model.context_size
        n_step = batching.bptt if context is None else context + 1
        rows_B = local_rows(self.mesh, batching.batch_size)
        return make_batches(self.text.train, batching, n_step, training.seed, rows_B)

    def _check_patience(self) -> None:
        """Raise SettingError if `patience` ends a run before its average can begin."""
        patience, after = self.training.patience, self.optimizer.trigger_after
        if patience and self.optimizer.average == "triggered" and patience <= after:
            why = (
                f"ends the run before its average can begin (`trigger_after` {after}); use "
                f"{after + 1} or more"
            )
            raise SettingError("patience", patience, why)

    def _plan(self, spec: Spec) -> None:
        """Set the horizon, the optimizer and the pause points for the settings of `spec`."""
        training, optimizer = spec.config.training, spec.config.optimizer
        assert training is not None and optimizer is not None
        per_epoch = self.batches[0].steps_per_epoch
        total = total_steps(training, per_epoch)
        self.horizon = horizon_of(training, per_epoch, total)
        self.transform = make_optimizer(optimizer, self.horizon, self.extras.custom)
        make_average(optimizer)
        eval_every = (training.eval_every or per_epoch) if self._validates else None
        keeps = training.checkpoint_every or eval_every or max(1000, per_epoch)
        self.pauses = PausePoints(total, eval_every, keeps if spec.folder else None)

    def _set_steps(self, steps: int | None) -> None:
        """Plan again with this number of steps; None if `epochs` decides."""
        self.specs = [replace(spec, config=spec.config.with_steps(steps)) for spec in self.specs]
        self._plan(self.first)

    def _runner(self) -> StepRunner:
        average, batches = make_average(self.optimizer), self.batches[0]
        share = average.share if average else None
        if self.make_runner is not None:
            return self.make_runner(
                self.specs,
                self.horizon,
                batches.positions,
                varied=batches.varied,
                share=share,
                custom=self.extras.custom,
            )
        block = make_train_block(
            self.first.model,
            self.transform,
            jax.random.key(self.training.seed),
            batches.positions,
            varied=batches.varied,
            share=share,
            mesh=self.mesh,
        )
        return StepRunner.single(block)

    def _initial_state(self, spec: Spec) -> TrainState:
        average = make_average(self.optimizer)
        assert spec.config.training is not None
        return init_state(
            spec.model,
            self.transform,
            jax.random.key(spec.config.training.seed),
            self.batches[0].batch_size,
            average.start if average else None,
            self.mesh,
        )

    # The whole of training.

    def run(self, resume: bool) -> list[Run]:
        """Train, and return the runs that did not fail."""
        with contextlib.ExitStack() as locks:
            try:
                return self._run(resume, locks)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise self._out_of_memory(resume) from error

    def _out_of_memory(self, resume: bool) -> UserError:
        """Return the error of a full memory. A new folder without a checkpoint is freed."""
        if not resume and is_first() and all(one.saved_step < 0 for one in self.trainees):
            for folder in self._folders():
                folder.release(keep_folder=True)
        batching = self.first.config.batching
        assert batching is not None
        steps = f"`bptt` (now {batching.bptt}), " if batching.batching == "streams" else ""
        return UserError(
            f"the memory is full: lower `batch_size` (now {batching.batch_size}), {steps}or the "
            f"sizes of the model"
        )

    def _run(self, resume: bool, locks: contextlib.ExitStack) -> list[Run]:
        """Do `run`, and keep the locks of the folders in `locks`."""
        if self.training.tensorboard:
            check_tensorboard()
        self._claim(resume, locks)
        # Logs and checkpoints are opened only now: a refused folder must be left as it was.
        self.trainees = [self._trainee(spec, index) for index, spec in enumerate(self.specs)]
        first, per_epoch = self.trainees[0], self.batches[0].steps_per_epoch
        notes = [*self.notes, *self.first.model.notes()]
        if not self.fits_rest:
            notes += self.budget.notes(self.pauses.total, per_epoch)
        notes += self.first.model.sweep_notes() if len(self.specs) > 1 else []
        for note in notes:
            first.log.note(note)
        try:
            with contextlib.ExitStack() as logs, Interrupts() as interrupts:
                for trainee in self.trainees:
                    logs.enter_context(trainee.log)
                states = self._start(resume)
                if self._first_decides(not resume or self._has_work()):
                    run_on_first(self._record_session)
                    for trainee, change in zip(self.trainees, self.changes, strict=False):
                        if change:
                            trainee.log.note(f"note: the run goes on with {change}")
                states = self._train(states, interrupts)
                if self.stopped_by:
                    step = max(trainee.step for trainee in self.trainees)
                    first.log.note(
                        f"stopped at step {step} of {self.pauses.total}; {self._saved()}"
                    )
        finally:
            for trainee in self.trainees:
                trainee.close()
            for callback in self.extras.callbacks if is_first() else ():
                if finish := getattr(callback, "finish", None):
                    finish()
        pairs = zip(self.trainees, states, strict=True)
        return [
            trainee.run(state, self.stopped_by) for trainee, state in pairs if not trainee.failed
        ]

    def _saved(self) -> str:
        """Return what is saved of runs that were stopped."""
        if self.first.folder is None:
            return "nothing is saved, because there is no folder"
        missing = [one for one in self.alive if one.saved_step != one.step]
        if not missing:
            return "saved"
        steps = [one.saved_step for one in missing]
        return f"the newest checkpoint is of step {min(steps)}" if min(steps) >= 0 else "not saved"

    @property
    def alive(self) -> list[Trainee]:
        """The runs that have not failed."""
        return [trainee for trainee in self.trainees if not trainee.failed]

    @property
    def running(self) -> list[Trainee]:
        """The runs that have neither failed nor run out of patience."""
        return [trainee for trainee in self.alive if not trainee.out_of_patience]

    def _trainee(self, spec: Spec, index: int) -> Trainee:
        name = spec.folder.name if spec.folder else f"run {index}"
        folder, console = spec.folder, self.extras.console
        if not is_first():
            folder, console = None, Console(quiet=True)
        log = Log(
            folder,
            console,
            self.pauses.total,
            self.training.tensorboard,
            label=f"{name}: " if len(self.specs) > 1 else "",
            live=index == 0,
            callbacks=self.extras.callbacks if is_first() else (),
            run_name=name if self.extras.name_runs else None,
        )
        per_epoch = self.batches[0].steps_per_epoch
        # Of several runs the first one shows samples. Several processes show none.
        shows = index == 0 and jax.process_count() == 1
        samples = Samples(self.extras.sample_every, self.text, log) if shows else None
        return Trainee(spec, self.text, log, self.pauses, per_epoch, self.mesh, samples)

    # Claim: the folders, and how many steps fit into a budget.

    def _claim(self, resume: bool, locks: contextlib.ExitStack) -> None:
        """Claim the folders, and fit the number of steps to a budget.

        A folder that holds the run to resume is not changed: it could still be refused.
        """
        if resume:
            run_on_first(self._fetch)
            # The first process alone may see the folder.
            steps = saved_steps(self.training, self.first.folder)
            self._set_steps(int(allgather_ints([steps or 0])[0, 0]) or None)
        run_on_first(lambda: claim_all(self._folders(), resume, locks))
        if resume and is_first():
            self.changes = [folder.changes() for folder in self._folders()]
        if self.training.max_minutes and not self.training.steps:
            steps = self.budget.first_fit(
                self._timed_block(),
                self._initial_state(self.first),
                self.batches[0],
                lambda: validation_seconds(self.first.model, self.text, self.mesh),
                most_steps=self.asked,
                eval_every=self.pauses.eval_every,
                runs=len(self.specs),
            )
            # The steps of a resumed run are known when its checkpoint is read.
            self.fits_rest = resume
            if not resume:
                self._set_steps(int(allgather_ints([steps])[0, 0]))

    def _fit_rest(self) -> None:
        """Fit the number of steps of a resumed run to the minutes that are left."""
        done = max(one.step for one in self.trainees)
        steps = max(1, int(allgather_ints([self.budget.fit_rest(done)])[0, 0]))
        self._set_steps(steps)
        for spec, trainee in zip(self.specs, self.trainees, strict=True):
            trainee.change_length(spec, self.pauses)
        per_epoch = self.batches[0].steps_per_epoch
        for note in self.budget.notes(steps, per_epoch):
            self.trainees[0].log.note(note)
        if steps <= done:
            why = f"no further step fits into what is left of `max_minutes` {self.budget.minutes:g}"
            if done >= self.asked:
                epochs = f"{self.training.epochs:g}"
                why = f"the run has trained its {epochs} epochs: give a larger `epochs` to train on"
            self.trainees[0].log.note(why)

    def _timed_block(self) -> Any:
        """Return the compiled train step of one run, to be timed by `Budget.first_fit`."""
        average, batches = make_average(self.optimizer), self.batches[0]
        return make_train_block(
            self.first.model,
            self.transform,
            jax.random.key(0),
            batches.positions,
            varied=batches.varied,
            share=average.share if average else None,
            mesh=self.mesh,
        )

    def _folders(self) -> list[Any]:
        folders = [spec.run_folder(self.text) for spec in self.specs]
        return [folder for folder in folders if folder is not None]

    def _fetch(self) -> None:
        """Bring back the folders that were lost, from their remote checkpoints."""
        for folder in self._folders():
            folder.fetch()

    def _has_work(self) -> bool:
        """Return whether there are steps to train."""
        return any(one.step < self.pauses.total for one in self.running) and not self._done()

    def _describe(self) -> None:
        """Write config.json, whose settings a resumed run or a new number of steps changes."""
        for folder in self._folders():
            folder.write_description()

    def _record_session(self) -> None:
        """Write config.json and a line of sessions.jsonl for each run."""
        self._describe()
        session = session_of(self.mesh)
        for spec in self.specs:
            if spec.folder:
                record_session(spec.folder, spec.config.about.get("command"), session)

    # Start or restore.

    def _start(self, resume: bool) -> list[TrainState]:
        """Return the states to train from: saved states, or states before step 0."""
        states = [self._initial_state(spec) for spec in self.specs]
        restored = self._restore(states) if resume else None
        if restored is not None:
            states = restored
        else:
            if self.extras.start_params is not None:
                states = [
                    _with_params(state, self.extras.start_params, self.transform)
                    for state in states
                ]
            for trainee in self.trainees:
                trainee.start()
        self.budget.spent_before = max(one.meter.progress.seconds for one in self.trainees)
        if self.fits_rest:
            self._fit_rest()
        for trainee in self.trainees:
            trainee.say_resumed()
        return states

    def _restore(self, states: list[TrainState]) -> list[TrainState] | None:
        """Return the newest saved states; None if nothing was saved.

        Several runs go back to the newest step that all of them saved and that can be read: a
        signal may have ended the earlier session when only some runs had saved their newest step.
        A run that failed in an earlier session stays failed, and keeps its initial state. A run
        that is out of patience keeps its own newest state.

        Raises:
          UserError: if checkpoints were saved and cannot be read, or if the runs saved no common
            step. No file was changed then.
        """
        if len(self.trainees) == 1:
            newest = self.trainees[0].newest(states[0])
            return None if newest is None else [self.trainees[0].continue_from(newest, states[0])]
        alive = [trainee for trainee in self.trainees if not trainee.recall_failure()]
        if not alive:
            raise UserError(
                "`resume`: the loss of every run was not finite in an earlier session: choose "
                "another `folder`, with a lower `lr` or with `clip`"
            )
        found = self._restore_ended(states)
        going = {
            index: trainee
            for index, trainee in enumerate(self.trainees)
            if index not in found and not trainee.failed
        }
        if going:
            common = self._restore_common(going, states)
            if common is None:
                return None
            found |= common
        return [
            trainee.continue_from(found[index], state) if index in found else state
            for index, (trainee, state) in enumerate(zip(self.trainees, states, strict=True))
        ]

    def _restore_common(
        self, going: Mapping[int, Trainee], states: list[TrainState]
    ) -> dict[int, Saved] | None:
        """Return the saved states of the newest step that all of these runs can read, by index.

        None if one of the runs saved nothing.

        Raises:
          UserError: if the runs saved no common step, or if no common step can be read.
        """
        checkpoints = {index: one.checkpoints for index, one in going.items() if one.checkpoints}
        steps = [set(one.readable_steps()) for one in checkpoints.values()]
        if not steps or not all(steps):
            # A signal may have ended the earlier session at its first pause, when some runs had
            # saved nothing. Later, each run has a checkpoint.
            lost = [going[i] for i, saved in zip(checkpoints, steps, strict=True) if not saved]
            if lost and max(map(len, steps)) > 1:
                raise UserError(
                    f"`resume`: {lost[0].spec.folder} has no checkpoint, and other runs of the "
                    f"sweep have several: bring its checkpoints back, or choose another `folder`"
                )
            return None
        common = sorted(set.intersection(*steps), reverse=True)
        if not common:
            raise UserError(
                "`resume`: the runs saved no common step. If `patience` ended some of them, resume "
                "with the same `patience`"
            )
        for step in common:
            found: dict[int, Saved] = {}
            for index, one in checkpoints.items():
                restored = one.restore_step(step, states[index])
                if restored is None:
                    break
                found[index] = restored
            else:
                return found
        raise next(iter(checkpoints.values())).unreadable(common)

    def _restore_ended(self, states: list[TrainState]) -> dict[int, Saved]:
        """Return the newest saved state of each run of several that is out of patience."""
        ended: dict[int, Saved] = {}
        if self.training.patience is None:
            return ended
        for index, (trainee, state) in enumerate(zip(self.trainees, states, strict=True)):
            saved = None if trainee.failed else trainee.newest(state)
            if saved and trainee.patience_is_over(saved[1]["progress"]["worse_in_a_row"]):
                ended[index] = saved
        return ended

    # Repeat: dispatch, measure, pause.

    def _train(self, states: list[TrainState], interrupts: Interrupts) -> list[TrainState]:
        """Train from these states to the end, and return the states after the last step."""
        runner, batches = self._runner(), self.batches[0]
        capacity = capacity_of(len(self.specs) * batches.batch_size * batches.length)
        pending: tuple[int, int, Any] | None = None
        for index, trainee in enumerate(self.trainees):
            if trainee.out_of_patience:
                self.final_states[index] = states[index]
        # Without a running run there is no step to take.
        count, dispatched = 1, max([one.step for one in self.running] or [self.pauses.total])
        state = runner.stack(states)
        while dispatched < self.pauses.total and (count := self._next(count, interrupts)):
            began = time.perf_counter()
            count = min(count, capacity, self.pauses.until_pause(dispatched))
            block = runner.stack([one.block(dispatched, count, capacity) for one in self.batches])
            with self.budget.timing_dispatch():
                state, metrics = runner.run_block(state, block, count)
            if pending:
                # Read one dispatch late, while the device computes the next.
                self._measure(*pending)
            pending = (dispatched, count, runner.unstack(metrics))
            block_if_needed(self.mesh, metrics)
            dispatched += count
            # The steps before this dispatch were measured, so they have ended.
            if self._refit(dispatched, dispatched - count):
                runner = self._runner()
            save = self._saving_is_due()
            pauses = save or self.pauses.until_pause(dispatched - 1) == 1
            if pauses:
                self._measure(*pending)
                pending = None
            count = next_count(count, time.perf_counter() - began)
            if pauses:
                state = self._pause(state, runner, save)
        if pending:
            self._measure(*pending)
        states = runner.unstack(state)
        states = [self.final_states.get(index, one) for index, one in enumerate(states)]
        over = self._first_decides(self.budget.over)
        for trainee, one in zip(self.trainees, states, strict=True):
            self._unless_failed(trainee, partial(trainee.finish, one, self.budget, over))
        return states

    def _next(self, count: int, interrupts: Interrupts) -> int:
        """Return the upper limit for the steps of the next dispatch; 0 ends training.

        The first process's clock counts, and a signal to any process stops all of them.
        """
        votes_PN = allgather_ints([count, interrupts.received, self._done()])
        if votes_PN[0, 2]:
            return 0
        self.stopped_by = int(votes_PN[:, 1].max())
        return 0 if self.stopped_by else int(votes_PN[0, 0])

    def _done(self) -> bool:
        """Return whether the budget is spent, or the patience of every run is."""
        return self.budget.over or not self.running

    def _saving_is_due(self) -> bool:
        """Return whether `checkpoint_minutes` have passed since the last checkpoint."""
        if self.training.checkpoint_minutes is None:
            return False
        return self._first_decides(any(trainee.saving_is_due for trainee in self.running))

    def _first_decides(self, answer: bool) -> bool:
        """Return the first process's answer to a question about time, in every process."""
        return bool(allgather_ints([answer])[0, 0])

    def _refit(self, step: int, done: int) -> bool:
        """Fit the number of steps to the budget again, and return whether it changed.

        Args:
          step: the number of steps that were dispatched.
          done: the number of steps that have ended.
        """
        steps = self.budget.refit(step, self.pauses.total, self.pauses.eval_every, done)
        if self.budget.minutes:
            steps = int(allgather_ints([steps])[0, 0])
        if steps == self.pauses.total:
            return False
        self._set_steps(steps)
        for spec, trainee in zip(self.specs, self.trainees, strict=True):
            trainee.change_length(spec, self.pauses)
        if is_first():
            self._describe()
        epochs = steps / self.batches[0].steps_per_epoch
        note = f"step {step:6d}  fitted again to {self.budget.minutes:g} minutes: {steps:,} steps"
        self.trainees[0].log.note(f"{note}, {epochs:.2f} epochs")
        return True

    def _measure(self, first: int, count: int, metrics: Sequence[StepMetrics]) -> None:
        for trainee, one in zip(self.trainees, metrics, strict=True):
            if not trainee.out_of_patience:
                self._unless_failed(trainee, partial(trainee.measured, first, count, one))

    def _pause(self, state: Any, runner: StepRunner, save: bool) -> Any:
        """Return the stacked state to continue with, after each run validated and saved."""
        validates = any(self.pauses.validates_at(trainee.step) for trainee in self.running)
        with self.budget.timing_pause(validates):
            return self._pause_within_budget(state, runner, save, validates)

    def _pause_within_budget(
        self, state: Any, runner: StepRunner, save: bool, validates: bool
    ) -> Any:
        with contextlib.ExitStack() as clocks:
            for trainee in self.trainees:
                clocks.enter_context(trainee.log.clock_stopped())
            if validates:
                # The budget keeps as much time for the last pause, in which all runs validate too.
                clocks.enter_context(self.budget.timing_validation())
            before, after = runner.unstack(state), []
            for index, (trainee, one) in enumerate(zip(self.trainees, before, strict=True)):
                paused = None
                if not trainee.out_of_patience:
                    pause = partial(trainee.pause, one, self.budget, save=save)
                    paused = self._unless_failed(trainee, pause)
                after.append(one if paused is None else paused)
                if trainee.out_of_patience:
                    self.final_states.setdefault(index, after[-1])
        # After the checkpoints are written, and outside of the time that is reserved at the end.
        with self.trainees[0].log.clock_stopped():
            self.trainees[0].show_sample(after[0])
        return runner.stack(after)

    def _unless_failed(self, trainee: Trainee, do: Callable[[], T]) -> T | None:
        """Return do(), or None if the run has failed, or if do() finds that it fails.

        Raises:
          UserError: if all runs have failed.
        """
        if trainee.failed:
            return None
        try:
            return do()
        except NotFiniteError as error:
            advice = trainee.fail(error)
            if all(one.failed for one in self.trainees):
                raise UserError(advice) from None
            trainee.log.warn(f"this run ends: {advice}")
            return None


def _with_params(state: TrainState, params: Any, optimizer: Transform) -> TrainState:
    """Return a state before step 0 that starts from these parameters."""
    placed = put_like(params, state.params)
    iterate = None if state.iterate is None else put_like(params, state.params)
    # The state of an optimizer of the user's own may hold parameters.
    sharding = jax.tree.map(lambda array: array.sharding, state.opt_state)
    opt_state = jax.jit(optimizer.init, out_shardings=sharding)(placed)
    # Copies, because a train step may donate each array once.
    opt_state = jax.tree.map(lambda array: jnp.array(array, copy=True), opt_state)
    return replace(state, params=placed, iterate=iterate, opt_state=opt_state)
