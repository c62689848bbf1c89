"""One run in training: what it has measured, what is its best, and what of it is on disk."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.data.batching import BatchingConfig
from jaxlm.data.text import Text
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models.neural import NeuralModel
from jaxlm.parallel.mesh import Mesh, gather, put_like, to_host
from jaxlm.runs.checkpoints import Checkpoints
from jaxlm.runs.log import Log
from jaxlm.runs.run import Run, checkpoints_of, describe
from jaxlm.training.averaging import make_average
from jaxlm.training.budget import Budget
from jaxlm.training.optimizers import OptimizerConfig
from jaxlm.training.options import with_options
from jaxlm.training.progress import Meter, NotFiniteError, Progress, TrainingConfig
from jaxlm.training.state import TrainState
from jaxlm.training.step import StepMetrics
from jaxlm.training.timetable import Timetable


@dataclass(frozen=True)
class Settings:
    """What makes a run; `config` is kept in config.json beside the rest."""

    model: NeuralModel
    batching: BatchingConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    folder: Path | None
    config: dict[str, Any]

    def description(self, text: Text) -> dict[str, Any]:
        """What config.json says."""
        sections = {
            "text": text.config,
            "batching": self.batching,
            "optimizer": self.optimizer,
            "training": self.training,
        }
        return describe(self.model, sections, self.config, kept=self.folder is not None)


def settings_of(
    model: NeuralModel,
    batching: BatchingConfig | str,
    optimizer: OptimizerConfig | str,
    training: TrainingConfig | None,
    folder: str | Path | None,
    config: dict[str, Any] | None,
    options: dict[str, Any],
) -> Settings:
    """The settings of one run, from configs, names that stand for their defaults, and fields."""
    sections: list[Any] = [
        BatchingConfig(batching=batching) if isinstance(batching, str) else batching,
        OptimizerConfig(optimizer=optimizer) if isinstance(optimizer, str) else optimizer,
        training or TrainingConfig(),
    ]
    place = Path(folder) if folder else None
    set_batching, set_optimizer, set_training = with_options(sections, options)
    return Settings(model, set_batching, set_optimizer, set_training, place, config or {})


class Member:
    """A run as the loop sees it, which keeps the state itself."""

    def __init__(
        self,
        settings: Settings,
        text: Text,
        log: Log,
        timetable: Timetable,
        steps_per_epoch: int,
        mesh: Mesh | None = None,
    ) -> None:
        self.settings, self.text, self.log, self.timetable = settings, text, log, timetable
        self.meter = Meter(log, settings.training.log_every, steps_per_epoch, timetable.total)
        self.average = make_average(settings.optimizer)
        self.scorer = Scorer(settings.model, mesh=mesh)
        self.best_params: Any = None
        self.saved_step, self.saved_at = -1, time.monotonic()
        self.failed: NotFiniteError | None = None
        """Why it is out, if it is."""
        self.checkpoints: Checkpoints | None = None
        if settings.folder:
            training = settings.training
            place = checkpoints_of(settings.folder, training.checkpoint_folder)
            self.checkpoints = Checkpoints(place, log.warn, training.keep)

    @property
    def step(self) -> int:
        """Steps measured so far."""
        return self.meter.progress.step

    @property
    def saving_is_due(self) -> bool:
        """Whether the last checkpoint is as many minutes old as one may be."""
        minutes = self.settings.training.checkpoint_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    @property
    def out_of_patience(self) -> bool:
        """Whether validation has not improved for as long as it may."""
        patience, worse = self.settings.training.patience, self.meter.progress.worse_in_a_row
        return patience is not None and worse >= patience

    def refit(self, settings: Settings, timetable: Timetable) -> None:
        """From now on the run has another number of steps."""
        self.settings, self.timetable = settings, timetable
        self.meter.total = timetable.total
        self.log.expect(timetable.total)

    def start(self, state: TrainState, resume: bool) -> TrainState:
        """Where it begins: `state`, or with `resume` its last checkpoint, if there is one."""
        if resume and self.checkpoints and (restored := self.checkpoints.restore(state)):
            saved, meta = restored
            state = put_like(saved, state)
            self.meter.progress = Progress(**meta["progress"])
            self.saved_step = self.step
            self._restore_best(state)
            self.log.note(f"resumed at step {self.step} of {self.timetable.total}")
        self.log.start_from(self.step)
        return state

    def _restore_best(self, state: TrainState) -> None:
        assert self.checkpoints is not None
        best_step = self.meter.progress.best_step
        if best_step == self.step > 0:
            # The best is this very state; it may have been cut off before it was written as best.
            self._keep_best(state)
            return
        best = self.checkpoints.restore_params(state.params)
        if best and best[2] == "best" and best[1]["step"] == best_step:
            self.best_params = put_like(best[0], state.params)

    def _keep_best(self, state: TrainState) -> None:
        self.best_params = jax.tree.map(lambda array: jnp.array(array, copy=True), state.params)
        self._save("best", state)

    def measured(self, first: int, count: int, metrics: StepMetrics) -> None:
        """Adds `count` steps; raises NotFiniteError."""
        self.meter.steps(first, count, metrics)

    def pause(
        self, state: TrainState, budget: Budget, last: bool = False, save: bool = False
    ) -> TrainState:
        """Validates and saves, where this step calls for it; `last`: as at the end; `save`: saves
        whatever the step.
        """
        step, improved = self.timetable.total if last else self.step, False
        if budget.minutes:
            self.meter.progress.seconds = budget.seconds
        if self.timetable.validated_at(step):
            began = time.perf_counter()
            state, improved = self._validate(state)
            budget.validation_seconds = time.perf_counter() - began
        if last or save or self.timetable.saved_at(step):
            self._save("last", state)
        if improved:
            # After the last is on disk: a run that is killed between the two finds its best there.
            self._keep_best(state)
        return state

    def _validate(self, state: TrainState) -> tuple[TrainState, bool]:
        assert self.text.valid is not None
        batching, optimizer = self.settings.batching, self.settings.optimizer
        rows = batching.batching == "rows"
        last = rows and batching.positions == "last"
        scores = self.scorer.split(state.params, self.text.valid, rows, last)
        improved = self.meter.validation(scores)
        progress = self.meter.progress
        plateau = optimizer.schedule == "plateau"
        if plateau and progress.worse_since_decay >= optimizer.plateau_patience:
            progress.worse_since_decay = 0
            state = replace(state, lr_scale=state.lr_scale * optimizer.decay)
            self.log.note(f"step {progress.step:6d}  rate x {float(state.lr_scale):.4g}")
        if self.average and not state.averaged and self.average.begins(progress.valid_nlls):
            state = replace(state, averaged=jnp.ones((), jnp.float32))
            self.log.note(f"step {progress.step:6d}  the average of the parameters begins")
        return state, improved

    def finish(self, state: TrainState, budget: Budget) -> None:
        """Saves what is not saved; raises NotFiniteError if the last step broke the parameters."""
        unfinished = self.step < self.timetable.total
        if unfinished and budget.over and not self.timetable.validated_at(self.step):
            self.log.note(f"--max-minutes {self.settings.training.max_minutes:g} are over")
            self.pause(state, budget, last=True)
        if self.saved_step != self.step:
            if budget.minutes:
                self.meter.progress.seconds = budget.seconds
            self._save("last", state)
        if not _all_finite((state.params, state.iterate)):
            raise NotFiniteError(self.step, self.step)
        if self.checkpoints:
            self.checkpoints.wait()

    def _save(self, kind: str, state: TrainState) -> None:
        # A step can be measured well and still break the parameters; the next one will tell.
        if self.checkpoints and _all_finite((state.params, state.iterate)):
            if kind == "best":
                self.checkpoints.wait()
            self.checkpoints.save(kind, state, {"progress": asdict(self.meter.progress)})
            if kind == "last":
                self.saved_step, self.saved_at = self.step, time.monotonic()

    def advice(self, error: NotFiniteError) -> str:
        """What to do about it, and what is left."""
        kept = "no checkpoint was written yet"
        if self.checkpoints:
            # The state that gave this loss is no good any more, should it have been saved.
            left = self.checkpoints.drop_last(error.params_step)
            if left is not None:
                kept = f"the checkpoint of step {left} in {self.settings.folder} is kept"
        lr, clip = self.settings.optimizer.lr, self.settings.optimizer.clip
        return f"{error}: lower --lr (now {lr}) or set --clip (now {clip}); {kept}"

    def run(self, state: TrainState, stopped_by: int) -> Run:
        """What came of it: its best parameters, or the last where nothing is validated."""
        found, progress = self.best_params is not None, self.meter.progress
        settings = self.settings
        return Run(
            settings.model,
            gather(self.best_params if found else state.params),
            self.text.tokenizer,
            settings.description(self.text),
            settings.folder,
            progress.best_step if found else progress.step,
            stopped_by,
        )

    def close(self) -> None:
        """Ends writing."""
        if self.checkpoints:
            self.checkpoints.close()


def _all_finite(params: Any) -> bool:
    return all(bool(np.isfinite(to_host(leaf)).all()) for leaf in jax.tree.leaves(params))
