"""A wall-clock budget: how many train steps fit into it, and when it is spent.

To fit a run means to choose its number of steps so that training ends with the budget. A run is
fitted before step 0 (`first_fit`), and again when the machine gets slower or faster (`refit`).
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jaxlm.data.batching import Batches
from jaxlm.data.text import Text
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models.neural import NeuralModel
from jaxlm.parallel.mesh import Mesh
from jaxlm.parallel.multihost import allgather_ints
from jaxlm.runs.folder import holds_run, read_sections
from jaxlm.training.config import TrainingConfig
from jaxlm.training.optimizers import Horizon
from jaxlm.training.state import TrainState, init_params
from jaxlm.training.step import TrainBlock

# Seconds of train steps that are timed before step 0, without the steps that compile.
TIMED_SECONDS = 4.0
# Timing takes at most this share of the budget.
TIMED_SHARE = 0.05
# Share of the remaining time that is kept in reserve for a machine that gets slower.
RESERVE = 0.04
# `refit` measures the speed over windows with train steps for at least this share of the budget ...
WINDOW = 0.05
# ... and changes the number of steps if it is too large, or too small by this share, and by more
# steps than compiling the train step again costs.
DRIFT = 0.03
# Largest share of the steps that fit into a budget that the warm-up takes.
WARMUP = 0.2


class Budget:
    """The minutes of a run over all its sessions, measured by a clock of its own.

    Args:
      minutes: the budget; None for no limit.
      most_steps: upper limit for the number of steps that `refit` returns; None if the user chose
        the number of steps, so that `refit` never changes it.
    """

    def __init__(self, minutes: float | None, most_steps: int | None = None) -> None:
        self.minutes, self.most_steps = minutes, most_steps
        self._began = time.monotonic()
        self._window: tuple[float, int] | None = None
        self._paused = 0.0
        self._compiles = True
        self._validated = False
        self._fitted: tuple[float, int | None, int] | None = None
        self.spent_before = 0.0
        """Seconds that earlier sessions took."""
        self.validation_seconds = 0.0
        """Seconds of the last pause with a validation, of all runs together; this time is reserved
        for such a pause at the end."""
        self.compile_seconds = 0.0
        """Seconds of the slowest dispatch that compiled the train step: the first dispatch, and the
        dispatches after `refit` changed the number of steps."""
        self.pause_seconds = 0.0
        """Seconds of the last pause with a validation, with the samples that are drawn in it. The
        first pause of a session compiles, so it counts only if `first_fit` made no estimate. 0 if
        nothing is known yet."""

    @property
    def seconds(self) -> float:
        """Seconds spent so far, in all sessions."""
        return self.spent_before + time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """True when only the time that a validation takes is left."""
        limit = math.inf if self.minutes is None else 60 * self.minutes
        return self.seconds + (self.validation_seconds or self.pause_seconds) >= limit

    def end(self) -> None:
        """Count the budget as spent, with the time that was reserved for the last validation."""
        if self.minutes is not None:
            self.spent_before += max(0.0, 60 * self.minutes - self.seconds)

    @contextlib.contextmanager
    def timing_validation(self) -> Iterator[None]:
        """Measure the seconds of a pause with a validation that runs within this context."""
        began = time.perf_counter()
        yield
        self.validation_seconds = time.perf_counter() - began

    @contextlib.contextmanager
    def timing_pause(self, validates: bool) -> Iterator[None]:
        """Count the seconds within this context as a pause, not as time of train steps (`refit`).

        Args:
          validates: whether the pause has a validation, as the pauses of the remaining time have.
        """
        began = self.seconds
        yield
        paused = self.seconds - began
        self._paused += paused
        if validates:
            if self._validated or not self.pause_seconds:
                self.pause_seconds = paused
            self._validated = True

    @contextlib.contextmanager
    def timing_dispatch(self) -> Iterator[None]:
        """Measure the seconds of a dispatch within this context, if it compiles the train step.

        The first dispatch of a session compiles, and so does the first after a change by `refit`.
        Such a dispatch waits for the compiler.
        """
        began = time.perf_counter()
        yield
        if self._compiles:
            self._compiles = False
            self.compile_seconds = max(self.compile_seconds, time.perf_counter() - began)

    def notes(self, total: int, steps_per_epoch: int) -> list[str]:
        """Return lines for the log: the number of steps that fit into the budget.

        There are none without a budget, or if the user chose the number of steps.

        Args:
          total: the number of steps that fit.
          steps_per_epoch: train steps in an epoch.
        """
        if self.minutes is None or self.most_steps is None:
            return []
        epochs = f"{total / steps_per_epoch:.2f} epochs"
        return [
            f"`max_minutes` {self.minutes:g} allows {total:,} steps ({epochs}). To repeat this run "
            f"later, add `steps` {total}, unless the steps are fitted again."
        ]

    def refit(
        self, step: int, total: int, eval_every: int | None = None, done: int | None = None
    ) -> int:
        """Return how many steps the run should have, judged while the device works on `step`.

        The number is `total`, unless the latest steps show that clearly more or fewer steps fit
        into the budget, with the validations between them: fewer if `total` steps would overrun the
        whole budget, more if they would leave more than the reserve. Until the seconds of a
        validation are known, the number is `total`.

        Args:
          step: the number of steps that were dispatched.
          total: the number of steps of the run so far.
          eval_every: steps between two validations; None without validation.
          done: the number of steps that the device has finished, with the pause after the last of
            them; None for `step`. The dispatch of a step does not wait for its end.
        """
        done = step if done is None else done
        if self.minutes is None or self.most_steps is None or step >= total:
            return total
        if eval_every and not self.pause_seconds:
            return total
        working = self.seconds - self._paused
        if self._window is None:
            # The first call comes after the first dispatch, whose time is mostly compiling.
            self._window = working, done
        since, first = self._window
        if working - since < WINDOW * 60 * self.minutes or done == first:
            return total
        seconds_per_step = (working - since) / (done - first)
        self._window = working, done
        whole = 60 * self.minutes
        left = whole - self.seconds - (self.validation_seconds or self.pause_seconds)

        def fits(seconds: float) -> int:
            pauses = self.pause_seconds, eval_every, done
            return done + _steps_within(seconds, seconds_per_step, *pauses)

        compiling = self.compile_seconds / seconds_per_step
        most, least = fits(left), min(self.most_steps, fits(left - RESERVE * whole))
        if total - most <= compiling and least - total <= max(DRIFT * total, compiling):
            return total
        self._window, self._compiles = None, True
        return max(step + 1, min(self.most_steps, fits(left * (1 - RESERVE)) - int(compiling)))

    def first_fit(
        self,
        train_block: TrainBlock,
        state: TrainState,
        batches: Batches,
        validation: Callable[[], float],
        *,
        most_steps: int,
        eval_every: int | None,
        runs: int = 1,
    ) -> int:
        """Return how many steps fit into the budget, by timing some steps and a validation.

        Args:
          train_block: the compiled train step of one run.
          state: a state that the timing may use up.
          batches: the batches of the run.
          validation: measures and returns the seconds that a validation takes.
          most_steps: upper limit of the result.
          eval_every: steps between two validations; None without validation.
          runs: number of runs that train in parallel. A step of all runs is taken to last as long
            as this number of steps of a single run.
        """
        assert self.minutes is not None
        enough = min(TIMED_SECONDS, TIMED_SHARE * 60 * self.minutes)
        seconds = _seconds_per_step(train_block, state, batches, enough)
        if eval_every:
            self.pause_seconds = runs * validation()
        self._fitted = runs * seconds, eval_every, most_steps
        return max(1, self.fit_rest(0))

    def fit_rest(self, done: int) -> int:
        """Return how many steps fit into the budget of a run that has taken `done` steps.

        `first_fit` has timed a step and a validation. The number is `done` if earlier sessions have
        spent the budget.
        """
        assert self.minutes is not None and self._fitted is not None
        per_step, eval_every, most_steps = self._fitted
        # The run ends with a validation.
        left = 60 * self.minutes * (1 - RESERVE) - self.seconds - self.pause_seconds
        fits = done + _steps_within(left, per_step, self.pause_seconds, eval_every, done)
        return max(done, min(most_steps, fits))


def _steps_within(
    seconds: float, per_step: float, per_pause: float, eval_every: int | None, step: int
) -> int:
    """Return how many train steps fit into some seconds, with the pauses between these steps.

    Args:
      seconds: the time for steps and pauses.
      per_step: seconds of a step.
      per_pause: seconds of a pause.
      eval_every: a pause follows each step whose number is a multiple of it; None for no pauses.
      step: the steps that were trained before, with the pause after the last of them.
    """
    fits = int(seconds / per_step)
    if not eval_every or not per_pause:
        return max(0, fits)
    # Steps up to the first pause, and the time that is left after it.
    first = eval_every * (step // eval_every + 1) - step
    if fits <= first:
        return max(0, fits)
    left = seconds - first * per_step - per_pause
    whole, rest = divmod(left, eval_every * per_step + per_pause)
    if left < 0:
        return first
    return first + eval_every * int(whole) + min(eval_every, int(rest / per_step))


def horizon_of(config: TrainingConfig, steps_per_epoch: int, total: int) -> Horizon:
    """Return the length of training that learning-rate schedules go by.

    With `max_minutes` the epochs of a schedule shrink in proportion. If only half of the steps in
    `epochs` fit into the budget, an epoch of the schedule has half of the steps of a real epoch.
    The warm-up takes at most WARMUP of the steps.
    """
    if config.max_minutes is None:
        return Horizon(steps_per_epoch, total)
    asked = max(1, round(config.epochs * steps_per_epoch))
    epoch = max(1, round(steps_per_epoch * total / asked))
    return Horizon(epoch, total, most_warmup=round(WARMUP * total))


def saved_steps(config: TrainingConfig, folder: Path | None) -> int | None:
    """Return the number of steps to resume with.

    It is the number that an earlier session in `folder` was fitted to, if that session had the same
    `max_minutes` and `epochs`, and `config` names no number of steps.
    """
    if config.steps or config.max_minutes is None or folder is None:
        return config.steps
    if not holds_run(folder):
        return config.steps
    saved = read_sections(folder, "training")
    same = all(saved.get(name) == getattr(config, name) for name in ("max_minutes", "epochs"))
    return saved.get("steps") if same else None


def _seconds_per_step(
    train_block: TrainBlock, state: TrainState, batches: Batches, enough: float
) -> float:
    """Return the seconds of a train step, timed over `enough` seconds without compilation.

    Args:
      train_block: the compiled train step.
      state: a state that the timing may use up.
      batches: the batches of the run.
      enough: seconds of train steps that are timed.
    """
    capacity, count = 16, 1
    state, metrics = train_block(state, batches.block(0, count, capacity), count)
    jax.block_until_ready(metrics)
    taken, seconds = 0, 0.0
    # The first process's clock counts: all processes take the same number of steps.
    while allgather_ints([seconds < enough])[0, 0]:
        began = time.monotonic()
        state, metrics = train_block(state, batches.block(taken, count, capacity), count)
        jax.block_until_ready(metrics)
        seconds += time.monotonic() - began
        taken, count = taken + count, min(capacity, 2 * count)
    return seconds / taken


def validation_seconds(model: NeuralModel, text: Text, mesh: Mesh | None) -> float:
    """Return the seconds that scoring the validation split takes, measured on a part of it.

    The part is scored twice, because the first time includes compiling.
    """
    assert text.valid is not None
    params: Any = init_params(model, jax.random.key(0), mesh)
    part = text.valid.ids[: 8 * model.tokens_in_chunk(False)]
    for _ in range(2):
        began = time.monotonic()
        Scorer(model, mesh=mesh).stream(params, part)
        seconds = time.monotonic() - began
    return seconds * len(text.valid) / len(part)
