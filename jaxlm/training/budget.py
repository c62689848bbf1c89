"""A wall-clock budget: how many steps fit into it, and when it is spent."""

import dataclasses
import math
import time
from pathlib import Path

import jax

from jaxlm.data.batching import Batches
from jaxlm.data.text import Text
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models.neural import NeuralModel
from jaxlm.parallel.mesh import Mesh
from jaxlm.runs.run import CONFIG, read_description
from jaxlm.training.averaging import make_average
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.progress import TrainingConfig, total_steps
from jaxlm.training.state import init_state
from jaxlm.training.step import make_train_block

# Seconds of steps that are timed before the first, after those that compile; and of the time left,
# what is kept back for a machine that gets slower.
TIMED_SECONDS = 4.0
KEPT_BACK = 0.04
# The fit is looked at again whenever this share of the budget is spent, and changed where it is off
# by this share of the steps, and by more than compiling a train step anew takes.
WINDOW = 0.05
DRIFT = 0.03


class Budget:
    """The minutes of a run, over all its sessions; None: as many as it takes."""

    def __init__(self, minutes: float | None, asked: int | None = None) -> None:
        """asked: steps at most, should the fit be changed; None: it is left as it is."""
        self.minutes, self.asked = minutes, asked
        self._began = time.monotonic()
        self._looked: tuple[float, int] | None = None
        self.spent_before = 0.0
        """Seconds that earlier sessions took."""
        self.validation_seconds = 0.0
        """What the last validation took: it is kept back for one more at the end."""
        self.compile_seconds = 0.0
        """What the first dispatch of a train step took."""

    @property
    def seconds(self) -> float:
        """Spent so far, in all sessions."""
        return self.spent_before + time.monotonic() - self._began

    def notes(self, total: int, steps_per_epoch: int) -> list[str]:
        """What the run was fitted to."""
        if self.minutes is None:
            return []
        length = f"{total:,} steps, {total / steps_per_epoch:.2f} epochs"
        return [
            f"--max-minutes {self.minutes:g}: {length}; with --steps {total} too, they are repeated"
        ]

    def refitted(self, step: int, total: int) -> int:
        """How many steps the run is to have after `step` of them: `total`, unless the last ones,
        and the validations between them, took so long or so little that it is far from what fits.
        """
        if self.minutes is None or self.asked is None or step >= total:
            return total
        now = self.seconds
        if self._looked is None:
            # Not sooner: a first dispatch compiles.
            self._looked = now, step
        since, first = self._looked
        if now - since < WINDOW * 60 * self.minutes or step == first:
            return total
        pace = (now - since) / (step - first)
        self._looked = now, step
        left = (60 * self.minutes - now - self.validation_seconds) * (1 - KEPT_BACK)
        compiling = self.compile_seconds / pace
        fits = step + int(left / pace)
        if abs(min(self.asked, fits) - total) <= max(DRIFT * total, compiling):
            return total
        self._looked = None
        return max(step + 1, min(self.asked, fits - int(compiling)))

    @property
    def over(self) -> bool:
        """Whether it is time for the last validation."""
        limit = math.inf if self.minutes is None else 60 * self.minutes
        return self.seconds + self.validation_seconds >= limit


def horizon_of(config: TrainingConfig, steps_per_epoch: int, total: int) -> Horizon:
    """What schedules go by. Within a budget the epochs of a schedule shrink with the run: what was
    to happen in a tenth of the epochs asked for happens in a tenth of those there is time for.
    """
    if config.max_minutes is None:
        return Horizon(steps_per_epoch, total)
    asked = max(1, round(config.epochs * steps_per_epoch))
    return Horizon(max(1, round(steps_per_epoch * total / asked)), total)


def with_saved_steps(config: TrainingConfig, folder: Path | None) -> TrainingConfig:
    """`config` with the steps that an earlier session of the run in `folder` was fitted to, if
    there was one with as many minutes.
    """
    if config.max_minutes is None or folder is None or not (folder / CONFIG).exists():
        return config
    saved = read_description(folder)[0].get("training", {})
    same = saved.get("max_minutes") == config.max_minutes
    steps = saved.get("steps") if same else None
    return dataclasses.replace(config, steps=config.steps or steps)


def fitted(
    config: TrainingConfig,
    model: NeuralModel,
    text: Text,
    batches: Batches,
    optimizer: OptimizerConfig,
    runs: int = 1,
    mesh: Mesh | None = None,
) -> TrainingConfig:
    """`config` with as many steps as fit into its minutes, and no more than it asks for: some are
    timed, and a validation. runs: how many are trained side by side.
    """
    assert config.max_minutes is not None
    began = time.monotonic()
    asked = total_steps(config, batches.steps_per_epoch)
    step = _step_seconds(model, batches, optimizer, asked, mesh)
    validations = 0.0
    if text.valid is not None and len(text.valid):
        eval_every = config.eval_every or batches.steps_per_epoch
        validations = _validation_seconds(model, text, mesh) / eval_every
    left = 60 * config.max_minutes * (1 - KEPT_BACK) - (time.monotonic() - began)
    return dataclasses.replace(
        config, steps=max(1, min(asked, int(left / (runs * (step + validations)))))
    )


def _step_seconds(
    model: NeuralModel,
    batches: Batches,
    optimizer: OptimizerConfig,
    asked: int,
    mesh: Mesh | None,
) -> float:
    average = make_average(optimizer)
    transform = make_optimizer(optimizer, Horizon(batches.steps_per_epoch, asked))
    key = jax.random.key(0)
    start, share = (average.start, average.share) if average else (None, None)
    state = init_state(model, transform, key, batches.batch_size, start, mesh)
    settings = {"varied": batches.varied, "share": share, "mesh": mesh}
    block_of = make_train_block(model, transform, key, batches.positions, **settings)  # type: ignore[arg-type]
    capacity, count = 16, 1
    state, metrics = block_of(state, batches.block(0, count, capacity), count)
    jax.block_until_ready(metrics)
    taken, seconds = 0, 0.0
    while seconds < TIMED_SECONDS:
        began = time.monotonic()
        state, metrics = block_of(state, batches.block(taken, count, capacity), count)
        jax.block_until_ready(metrics)
        seconds += time.monotonic() - began
        taken, count = taken + count, min(capacity, 2 * count)
    return seconds / taken


def _validation_seconds(model: NeuralModel, text: Text, mesh: Mesh | None) -> float:
    """Of the whole validation text, by a part of it: the second time, when nothing is compiled."""
    assert text.valid is not None
    transform = make_optimizer(OptimizerConfig(optimizer="sgd"), Horizon(1, 1))
    size = 1 if mesh is None else mesh.shape["data"]
    params = init_state(model, transform, jax.random.key(0), size, mesh=mesh).params
    part = text.valid.ids[: 8 * model.tokens_in_chunk(False)]
    for _ in range(2):
        began = time.monotonic()
        Scorer(model, mesh=mesh).stream(params, part)
        seconds = time.monotonic() - began
    return seconds * len(text.valid) / len(part)
