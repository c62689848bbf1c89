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
# `refit` measures the speed over windows of at least this share of the budget ...
WINDOW = 0.05
# ... and changes the number of steps if it is wrong by this share, and by more steps than compiling
# the train step again costs.
DRIFT = 0.03


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
        self._last_fit: tuple[float, int] | None = None
        self.spent_before = 0.0
        """Seconds that earlier sessions took."""
        self.validation_seconds = 0.0
        """Seconds of the last pause with a validation, of all runs together; this time is reserved
        for such a pause at the end."""
        self.compile_seconds = 0.0
        """Seconds of the first dispatch, which compiles the train step."""

    @property
    def seconds(self) -> float:
        """Seconds spent so far, in all sessions."""
        return self.spent_before + time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """True when only the time that a validation takes is left."""
        limit = math.inf if self.minutes is None else 60 * self.minutes
        return self.seconds + self.validation_seconds >= limit

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
    def timing_dispatch(self) -> Iterator[None]:
        """Measure the seconds of the first dispatch that runs within this context.

        Only the first dispatch of a session compiles, and it waits for the compiler.
        """
        began = time.perf_counter()
        yield
        self.compile_seconds = self.compile_seconds or time.perf_counter() - began

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
            f"`max_minutes` {self.minutes:g} allows {total:,} steps ({epochs}). To repeat exactly "
            f"this run later, add `steps` {total}."
        ]

    def refit(self, step: int, total: int) -> int:
        """Return how many steps the run should have, judged after step number `step`.

        The answer is `total`, unless the latest steps and the validations between them show that
        clearly more or fewer steps fit into the budget.
        """
        if self.minutes is None or self.most_steps is None or step >= total:
            return total
        now = self.seconds
        if self._last_fit is None:
            # The first call comes after the first dispatch, whose time is mostly compiling.
            self._last_fit = now, step
        since, first = self._last_fit
        if now - since < WINDOW * 60 * self.minutes or step == first:
            return total
        seconds_per_step = (now - since) / (step - first)
        self._last_fit = now, step
        left = (60 * self.minutes - now - self.validation_seconds) * (1 - RESERVE)
        compiling = self.compile_seconds / seconds_per_step
        fits = step + int(left / seconds_per_step)
        if abs(min(self.most_steps, fits) - total) <= max(DRIFT * total, compiling):
            return total
        self._last_fit = None
        return max(step + 1, min(self.most_steps, fits - int(compiling)))

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
            seconds += validation() / eval_every
        left = 60 * self.minutes * (1 - RESERVE) - (self.seconds - self.spent_before)
        return max(1, min(most_steps, int(left / (runs * seconds))))


def horizon_of(config: TrainingConfig, steps_per_epoch: int, total: int) -> Horizon:
    """Return the length of training that learning-rate schedules go by.

    With `max_minutes` the epochs of a schedule shrink in proportion. If only half of the steps in
    `epochs` fit into the budget, an epoch of the schedule has half of the steps of a real epoch.
    """
    if config.max_minutes is None:
        return Horizon(steps_per_epoch, total)
    asked = max(1, round(config.epochs * steps_per_epoch))
    return Horizon(max(1, round(steps_per_epoch * total / asked)), total)


def saved_steps(config: TrainingConfig, folder: Path | None) -> int | None:
    """Return the number of steps to resume with.

    It is the number that an earlier session in `folder` was fitted to, if that session had the same
    `max_minutes` and `config` names no number of steps.
    """
    if config.steps or config.max_minutes is None or folder is None:
        return config.steps
    if not holds_run(folder):
        return config.steps
    saved = read_sections(folder, "training")
    same_budget = saved.get("max_minutes") == config.max_minutes
    return saved.get("steps") if same_budget else None


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
