"""One run in training: what it measured, its best parameters, and its checkpoints."""

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.data.batching import BatchingConfig
from jaxlm.data.files import write_text
from jaxlm.data.json_files import read_json
from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models.neural import NeuralModel
from jaxlm.parallel.mesh import Mesh, gather, put_like, to_host
from jaxlm.parallel.multihost import is_first
from jaxlm.runs.checkpoints import Checkpoints
from jaxlm.runs.folder import CONFIG, RunFolder
from jaxlm.runs.log import Log, writing
from jaxlm.runs.old_configs import absent_settings
from jaxlm.runs.run import Run
from jaxlm.training.averaging import make_average
from jaxlm.training.budget import Budget
from jaxlm.training.config import RunConfig
from jaxlm.training.optimizers import CUSTOM
from jaxlm.training.progress import Meter, NotFiniteError, Progress
from jaxlm.training.samples import Samples
from jaxlm.training.state import TrainState
from jaxlm.training.step import StepMetrics

Saved = tuple[TrainState, dict[str, Any]]
"""A saved state, and the meta of its checkpoint."""
# Written when the loss of a run is not finite: the run cannot continue.
FAILED = "failed.json"


@dataclass(frozen=True)
class Spec:
    """Specification of a run: the model, every setting, and the folder, or None."""

    model: NeuralModel
    config: RunConfig
    folder: Path | None = None

    def resumed(self) -> "Spec":
        """Return the spec with which the run in the folder is resumed.

        A setting of batching that the run's config.json lacks, because an older version of jaxlm
        made the run, gets the value that is as if there was no setting, unless the caller asks for
        another value than the default.
        """
        batching, path = self.config.batching, self.folder and self.folder / CONFIG
        if batching is None or path is None or not os.path.isfile(path):
            return self
        try:
            absent = absent_settings(read_json(path))
        except (OSError, ValueError):
            # The check of the folder will say what is wrong with it.
            return self
        missing: dict[str, Any] = {
            name: value
            for name, value in absent.items()
            if getattr(batching, name) == getattr(BatchingConfig, name)
        }
        return replace(self, config=replace(self.config, batching=replace(batching, **missing)))

    def run_folder(self, text: Text) -> RunFolder | None:
        """Return the folder of the run, with what config.json and tokenizer.json will say."""
        if self.folder is None:
            return None
        assert self.config.training is not None
        description = self.config.as_json(self.model.start_id)
        remote = self.config.training.checkpoint_folder
        return RunFolder(self.folder, description, text.tokenizer, remote)


@dataclass(frozen=True)
class PausePoints:
    """The steps at which a run pauses to validate and to save.

    total: steps of the whole run. eval_every: steps between two validations, None without a
    validation text. checkpoint_every: steps between two checkpoints, None if none are kept.
    """

    total: int
    eval_every: int | None
    checkpoint_every: int | None

    def until_pause(self, step: int) -> int:
        """Return the number of steps from `step` to the next validation, checkpoint, or end."""
        pauses = [every for every in (self.eval_every, self.checkpoint_every) if every]
        return min([every - step % every for every in pauses] + [self.total - step])

    def validates_at(self, step: int) -> bool:
        """Return whether the run is validated after `step` steps; it always is at the end."""
        return self.eval_every is not None and (step % self.eval_every == 0 or step == self.total)

    def saves_at(self, step: int) -> bool:
        """Return whether a checkpoint is written after `step` steps.

        It is at every validation too: the best parameters and the state that found them must not
        come from different sessions.
        """
        return any(
            every and step % every == 0 for every in (self.eval_every, self.checkpoint_every)
        )


class Trainee:
    """One run as the loop sees it; the loop keeps the state.

    Args:
      spec: the model, the settings and the folder.
      text: the corpus, with the validation split if there is one.
      log: where records and lines go.
      pauses: when to validate and save.
      steps_per_epoch: train steps in an epoch.
      mesh: the devices, or None.
      samples: shows samples at validations; None to show none.
    """

    def __init__(
        self,
        spec: Spec,
        text: Text,
        log: Log,
        pauses: PausePoints,
        steps_per_epoch: int,
        mesh: Mesh | None = None,
        samples: Samples | None = None,
    ) -> None:
        optimizer, training = spec.config.optimizer, spec.config.training
        assert optimizer is not None and training is not None
        self.spec, self.text, self.log, self.pauses = spec, text, log, pauses
        self.optimizer, self.training = optimizer, training
        self.meter = Meter(
            log,
            training.log_every,
            steps_per_epoch,
            pauses.total,
            spec.model.vocab_size,
            clips=optimizer.clip is not None,
        )
        self.average = make_average(optimizer)
        self.scorer = Scorer(spec.model, mesh=mesh)
        self.protocol = spec.config.protocol(spec.model.start_id)
        self.samples = samples
        self.best_params: Any = None
        self.saved_step, self.saved_at = -1, time.monotonic()
        self._is_resumed = False
        self.failed: NotFiniteError | None = None
        """The error that ended this run, or None."""
        self.checkpoints: Checkpoints | None = None
        if folder := spec.run_folder(text):
            # One checkpoint is left if a crash damages the newest, and runs that a signal ends
            # between two of their saves go back to a common step.
            self.checkpoints = Checkpoints(folder.checkpoints, log.warn, max(2, training.keep))

    @property
    def step(self) -> int:
        """Number of steps whose measurements were read."""
        return self.meter.progress.step

    @property
    def saving_is_due(self) -> bool:
        """True if the last checkpoint is older than `checkpoint_minutes`."""
        minutes = self.training.checkpoint_minutes
        if minutes is None or self.checkpoints is None:
            return False
        return time.monotonic() - self.saved_at >= 60 * minutes

    @property
    def out_of_patience(self) -> bool:
        """True if the last `patience` validations brought no improvement."""
        return self.patience_is_over(self.meter.progress.worse_in_a_row)

    def patience_is_over(self, worse_in_a_row: int) -> bool:
        """Return whether so many validations without improvement end the run."""
        patience = self.training.patience
        return patience is not None and worse_in_a_row >= patience

    def change_length(self, spec: Spec, pauses: PausePoints) -> None:
        """Continue with another number of steps."""
        assert spec.config.training is not None
        self.spec, self.pauses, self.training = spec, pauses, spec.config.training
        self.meter.total = pauses.total
        self.log.expect(pauses.total)

    def start(self) -> None:
        """Start at step 0: forget the records and the failure of an earlier session."""
        self.failed = None
        self.log.start_from(0)
        self._write_failure(None)
        if self.checkpoints:
            self.checkpoints.remove_half_written()

    def newest(self, state: TrainState) -> Saved | None:
        """Return the newest state that was saved and can be read; None if nothing was saved.

        Args:
          state: a state with the shapes that the saved state has.
        Raises:
          UserError: if no checkpoint can be read, or if the folder has parameters alone
            (`Run.save`), which cannot be trained further.
        """
        if self.checkpoints is None:
            return None
        saved = self.checkpoints.restore(state)
        if saved is None:
            self._check_no_params_alone(state)
        return saved

    def continue_from(self, saved: Saved, state: TrainState) -> TrainState:
        """Return a saved state, placed as `state` is, and forget the records after its step."""
        assert self.checkpoints is not None
        restored, meta = saved
        state = put_like(restored, state)
        self.meter.progress = Progress.from_json(meta)
        self.saved_step = self.step
        scale, schedule = float(to_host(state.lr_scale)), self.optimizer.schedule
        if scale != 1 and schedule != "plateau":
            state = replace(state, lr_scale=put_like(np.ones((), np.float32), state.lr_scale))
            self.log.note(f"`schedule` {schedule}: the factor {scale:.4g} of plateaus is dropped")
        elif scale != 1:
            self.log.note(f"plateaus have multiplied the rate by {scale:.4g}")
        self._write_failure(None)
        # Before a checkpoint is written anew.
        self.checkpoints.remove_half_written()
        self._restore_best(state)
        self._is_resumed = True
        self.log.start_from(self.step)
        return state

    def say_resumed(self) -> None:
        """Say at which step the run goes on, if `continue_from` brought it back."""
        if self._is_resumed:
            self.log.note(f"resumed at step {self.step} of {self.pauses.total}")

    def _check_no_params_alone(self, state: TrainState) -> None:
        assert self.checkpoints is not None
        saved = self.checkpoints.restore_params(state.params)
        if saved is not None and "progress" not in saved[1]:
            raise UserError(
                f"`resume`: {self.spec.folder} holds parameters alone, without the state of a "
                f"training: fine-tune that run in another `folder`"
            )

    def _restore_best(self, state: TrainState) -> None:
        """Bring back the best parameters by validation."""
        assert self.checkpoints is not None
        best_step = self.meter.progress.best_step
        best = self.checkpoints.restore_params(state.params)
        if best and best[2] == "best" and best[1]["step"] == best_step:
            self.best_params = put_like(best[0], state.params)
        if best_step == self.step > 0 and not _equal(self.best_params, state.params):
            # This state is the best one; the run ended before it was saved as best.
            self._keep_best(state)

    def _keep_best(self, state: TrainState) -> None:
        self.best_params = jax.tree.map(lambda array: jnp.array(array, copy=True), state.params)
        self._save("best", state)

    def measured(self, first: int, count: int, metrics: StepMetrics) -> None:
        """Add the measurements of the `count` steps after step `first`.

        Raises:
          NotFiniteError: if the loss is not finite.
        """
        self.meter.steps(first, count, metrics)

    def pause(
        self, state: TrainState, budget: Budget, last: bool = False, save: bool = False
    ) -> TrainState:
        """Validate and save, if this step is a pause point, and return the state to continue with.

        Args:
          state: the state after the last measured step.
          budget: the time budget.
          last: whether to treat this step as the end of the run.
          save: whether to save even if this step is no pause point.
        """
        step, improved = self.pauses.total if last else self.step, False
        if self.pauses.validates_at(step):
            state, improved = self._validate(state)
            if self.out_of_patience and self.step < self.pauses.total:
                self._end_patience()
        if budget.minutes:
            self.meter.progress.seconds = budget.seconds
        if last or save or self.pauses.saves_at(step):
            self._save("last", state)
        if improved:
            # The last checkpoint is complete first: a run killed in between finds its best there.
            self._keep_best(state)
        return state

    def show_sample(self, state: TrainState) -> None:
        """Show a sample, if this step was validated and a sample is due."""
        progress = self.meter.progress
        if self.samples is None or self.failed or progress.valid_step != progress.step:
            return
        validations = len(progress.valid_nlls)
        if self.samples.is_due(validations):
            self.samples.show(self._run(gather(state.params), progress.step), validations)

    def _validate(self, state: TrainState) -> tuple[TrainState, bool]:
        """Return the state to continue with, and whether this validation is the best so far."""
        assert self.text.valid is not None
        scores = self.scorer.split(
            state.params, self.text.valid, self.protocol.rows, self.protocol.last_only
        )
        improved = self.meter.validation(scores)
        progress, optimizer = self.meter.progress, self.optimizer
        plateau = optimizer.schedule == "plateau"
        if plateau and progress.worse_since_decay >= optimizer.plateau_patience:
            progress.worse_since_decay = 0
            state = replace(state, lr_scale=state.lr_scale * optimizer.decay)
            self.log.note(f"step {progress.step:6d}  rate x {float(state.lr_scale):.4g}")
        if self.average and not state.averaged and self.average.begins(progress.valid_nlls):
            # 1 step is in the average now; the sum keeps the sharding.
            state = replace(state, averaged=state.averaged + 1)
            # The average gets a `patience` of its own.
            progress.worse_in_a_row = 0
            self.log.note(f"step {progress.step:6d}  the average of the parameters begins")
        return state, improved

    def finish(self, state: TrainState, budget: Budget, over: bool) -> None:
        """Save the last state, unless it is saved already.

        Args:
          state: the state after the last step.
          budget: the time budget.
          over: whether the budget is spent, by the clock of the first process. If it ended the run
            early, the run is validated once more.
        Raises:
          NotFiniteError: if the last step made parameters that are not finite.
        """
        if over and self.step < self.pauses.total and not self.out_of_patience:
            self.meter.report_rest()
            self._end_budget(state, budget)
        if self.saved_step != self.step:
            if budget.minutes:
                self.meter.progress.seconds = budget.seconds
            self._save("last", state)
        if not _all_finite((state.params, state.iterate)):
            raise NotFiniteError(self.step, self.step)
        if self.checkpoints:
            self.checkpoints.wait()

    def _end_patience(self) -> None:
        """Log the last steps of a run whose patience is over, before the state is saved."""
        self.meter.report_rest()
        count = self.training.patience
        self.log.note(f"the run ends: {count} validations in a row brought no improvement")

    def _end_budget(self, state: TrainState, budget: Budget) -> None:
        """End a run whose minutes are over: validate the last state, and save it.

        A session that finds the budget spent, and the last state validated and saved, adds nothing.
        """
        self.log.note(f"the {budget.minutes:g} minutes of `max_minutes` are over")
        assert budget.minutes is not None
        progress = self.meter.progress
        budget.end()
        validated = self.pauses.eval_every is None or progress.valid_step == self.step
        if not validated:
            self.pause(state, budget, last=True)
        elif self.saved_step != self.step or progress.seconds < 60 * budget.minutes:
            progress.seconds = budget.seconds
            self._save("last", state)

    def _save(self, kind: str, state: TrainState) -> None:
        # A step with a finite loss can still make parameters that are not; the next step tells.
        if self.checkpoints and _all_finite((state.params, state.iterate)):
            if kind == "best":
                self.checkpoints.wait()
            self.checkpoints.save(kind, state, {"progress": asdict(self.meter.progress)})
            if kind == "last":
                self.saved_step, self.saved_at = self.step, time.monotonic()

    def fail(self, error: NotFiniteError) -> str:
        """Mark this run as failed, and return a message: the cause, a remedy, the checkpoint kept.

        The newest checkpoint is removed if it holds the state with this loss.
        """
        self.failed = error
        kept = "no checkpoint was written yet"
        if self.checkpoints:
            newest = self.checkpoints.drop_last(error.params_step)
            self._write_failure(error)
            if newest is not None:
                kept = f"the checkpoint of step {newest} in {self.spec.folder} is kept"
        rate = f"lower `lr` (now {self.optimizer.lr})"
        if CUSTOM in (self.optimizer.optimizer, self.optimizer.schedule):
            rate = "lower the learning rate of your own `optimizer` or `schedule`"
        return f"{error}: {rate} or set `clip` (now {self.optimizer.clip}); {kept}"

    def _write_failure(self, error: NotFiniteError | None) -> None:
        """Write failed.json, or remove it if `error` is None."""
        if self.spec.folder is None or not is_first():
            return
        path = self.spec.folder / FAILED
        if error is None:
            path.unlink(missing_ok=True)
            return
        with writing(path):
            write_text(path, json.dumps({"step": error.params_step, "why": str(error)}) + "\n")

    def recall_failure(self) -> bool:
        """Return whether an earlier session ended this run because its loss was not finite.

        A damaged failed.json says so too; then the step is not known and counts as 0.
        """
        path = self.spec.folder / FAILED if self.spec.folder else None
        if path is None or not path.exists():
            return False
        try:
            step = int(read_json(path)["step"])
        except (OSError, ValueError, KeyError, TypeError):
            step = 0
        self.failed = NotFiniteError(step + 1, step)
        return True

    def run(self, state: TrainState, stopped_by: int) -> Run:
        """Return the run with its best parameters, or the last if nothing was validated."""
        validated, progress = self.best_params is not None, self.meter.progress
        params = gather(self.best_params if validated else state.params)
        return self._run(params, progress.best_step if validated else progress.step, stopped_by)

    def _run(self, params: Any, step: int, stopped_by: int = 0) -> Run:
        """Return the run with these parameters, which `step` steps led to."""
        model, config = self.spec.model, self.spec.config
        settings, folder = config.as_json(model.start_id), self.spec.folder
        tokenizer = self.text.tokenizer
        return Run(model, params, tokenizer, self.protocol, settings, folder, step, stopped_by)

    def close(self) -> None:
        """End the threads that write checkpoints."""
        if self.checkpoints:
            self.checkpoints.close()


def _equal(one: Any, other: Any) -> bool:
    """Return whether two trees of parameters have the same values; `one` may be None."""
    if one is None:
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(to_host(leaf), to_host(twin)) for leaf, twin in pairs)


def _all_finite(params: Any) -> bool:
    return all(bool(np.isfinite(to_host(leaf)).all()) for leaf in jax.tree.leaves(params))
