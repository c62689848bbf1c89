"""The training loop: dispatch, measure, validate, keep."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxlm.data.batching import Batches, BatchingConfig, make_batches
from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.models.neural import NeuralModel
from jaxlm.scoring import Scorer
from jaxlm.training.averaging import make_average
from jaxlm.training.budget import Budget, fitted, horizon_of, with_saved_steps
from jaxlm.training.checkpoints import Checkpoints
from jaxlm.training.dispatch import capacity_of, next_count
from jaxlm.training.interrupts import Interrupts
from jaxlm.training.log import Log, check_tensorboard
from jaxlm.training.optimizers import OptimizerConfig, make_optimizer
from jaxlm.training.options import with_options
from jaxlm.training.progress import (
    Meter,
    NotFiniteError,
    Progress,
    TrainingConfig,
    total_steps,
)
from jaxlm.training.runs import CHECKPOINTS, Run, claim_folder, describe, write_description
from jaxlm.training.state import TrainState, init_state
from jaxlm.training.step import StepMetrics, make_train_block
from jaxlm.training.timetable import Timetable


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
    **options: Any,
) -> Run:
    """Trains a neural model; see `jaxlm.fit`. `options` are fields of the three configs by name.

    Raises UserError for a setting that cannot work, a loss that is not finite, and a disk that is
    full.
    """
    sections: list[Any] = [
        BatchingConfig(batching=batching) if isinstance(batching, str) else batching,
        OptimizerConfig(optimizer=optimizer) if isinstance(optimizer, str) else optimizer,
        training or TrainingConfig(),
    ]
    place = Path(folder) if folder else None
    set_batching, set_optimizer, set_training = with_options(sections, options)
    loop = _Loop(model, text, set_batching, set_optimizer, set_training, place, console)
    return loop.run(resume, config or {})


class _Loop:
    """One call of `fit_by_gradient`."""

    def __init__(
        self,
        model: NeuralModel,
        text: Text,
        batching: BatchingConfig,
        optimizer: OptimizerConfig,
        training: TrainingConfig,
        folder: Path | None,
        console: Console | None,
    ) -> None:
        self.model, self.text, self.folder = model, text, folder
        self.batching, self.optimizer, self.training = batching, optimizer, training
        self.budget = Budget(training.max_minutes)
        self.batches = self._make_batches()
        self._plan()
        self.average = make_average(optimizer)
        self.key = jax.random.key(training.seed)
        self.saved_step = -1
        self.scorer = Scorer(model)
        self.console = console
        self.best_params: Any = None
        self.checkpoints: Checkpoints | None = None

    def _make_batches(self) -> Batches:
        n_step = (self.model.context_size or self.batching.bptt - 1) + 1
        return make_batches(self.text.train, self.batching, n_step, self.training.seed)

    def _plan(self) -> None:
        """How many steps there are, and what depends on it."""
        training, per_epoch = self.training, self.batches.steps_per_epoch
        self.total = total_steps(training, per_epoch)
        horizon = horizon_of(training, per_epoch, self.total)
        self.transform = make_optimizer(self.optimizer, horizon)
        validates = self.text.valid is not None and len(self.text.valid) > 0
        eval_every = (training.eval_every or per_epoch) if validates else None
        keeps = training.checkpoint_every or eval_every or max(1000, per_epoch)
        self.timetable = Timetable(self.total, eval_every, keeps if self.folder else None)

    def run(self, resume: bool, config: dict[str, Any]) -> Run:
        """The whole of training."""
        if resume:
            self.training = with_saved_steps(self.training, self.folder)
        description = self._description(config)
        if self.training.tensorboard:
            check_tensorboard()
        if self.folder:
            claim_folder(self.folder, description, self.text.tokenizer, resume)
        if self.training.max_minutes and not self.training.steps:
            settings = self.batches, self.optimizer
            self.training = fitted(self.training, self.model, self.text, *settings)
            description = self._description(config)
            if self.folder:
                write_description(self.folder, description, self.text.tokenizer)
        self._plan()
        # Made only now: a folder that is refused must be left as it was.
        self.log = Log(self.folder, self.console, self.total, self.training.tensorboard)
        self.meter = Meter(
            self.log, self.training.log_every, self.batches.steps_per_epoch, self.total
        )
        for note in self.model.notes() + self.budget.notes(
            self.total, self.batches.steps_per_epoch
        ):
            self.log.note(note)
        if self.folder:
            self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.log.warn)
        try:
            with self.log, Interrupts() as interrupts:
                state = self._train(self._start(resume), interrupts)
                if interrupts.received:
                    self.log.note(
                        f"stopped at step {self.meter.progress.step} of {self.total}; saved"
                    )
        except NotFiniteError as error:
            raise UserError(self._advice(error)) from None
        finally:
            if self.checkpoints:
                self.checkpoints.close()
        params = self.best_params if self.best_params is not None else state.params
        step = (
            self.meter.progress.best_step
            if self.best_params is not None
            else self.meter.progress.step
        )
        return Run(
            self.model,
            params,
            self.text.tokenizer,
            description,
            self.folder,
            step,
            interrupts.received,
        )

    def _advice(self, error: NotFiniteError) -> str:
        kept = "no checkpoint was written yet"
        if self.checkpoints:
            # The state that gave this loss is no good any more, should it have been saved.
            left = self.checkpoints.drop_last(error.params_step)
            if left is not None:
                kept = f"the checkpoint of step {left} in {self.folder} is kept"
        lr, clip = self.optimizer.lr, self.optimizer.clip
        return f"{error}: lower --lr (now {lr}) or set --clip (now {clip}); {kept}"

    def _description(self, config: dict[str, Any]) -> dict[str, Any]:
        sections = {
            "text": self.text.config,
            "batching": self.batching,
            "optimizer": self.optimizer,
            "training": self.training,
        }
        return describe(self.model, sections, config, kept=self.folder is not None)

    def _start(self, resume: bool) -> TrainState:
        start = self.average.start if self.average else None
        state = init_state(self.model, self.transform, self.key, self.batches.batch_size, start)
        if resume and self.checkpoints and (restored := self.checkpoints.restore(state)):
            state, meta = restored
            # Copies into memory of JAX's own, which the donated train step may then take over.
            state = jax.tree.map(lambda array: jnp.array(array, copy=True), state)
            self.meter.progress = Progress(**meta["progress"])
            self.budget.spent_before = self.meter.progress.seconds
            self.saved_step = self.meter.progress.step
            self._restore_best(state)
            self.log.note(f"resumed at step {self.meter.progress.step} of {self.total}")
        self.log.start_from(self.meter.progress.step)
        return state

    def _restore_best(self, state: TrainState) -> None:
        assert self.checkpoints is not None
        best_step = self.meter.progress.best_step
        if best_step == self.meter.progress.step > 0:
            # The best is this very state; it may have been cut off before it was written as best.
            self._keep_best(state)
            return
        best = self.checkpoints.restore_params(state.params)
        if best and best[2] == "best" and best[1]["step"] == best_step:
            self.best_params = jax.tree.map(jnp.asarray, best[0])

    def _keep_best(self, state: TrainState) -> None:
        self.best_params = jax.tree.map(lambda array: jnp.array(array, copy=True), state.params)
        self._save("best", state)

    def _train(self, state: TrainState, interrupts: Interrupts) -> TrainState:
        train_block = make_train_block(
            self.model,
            self.transform,
            self.key,
            self.batches.features,
            varied=self.batches.varied,
            share=self.average.share if self.average else None,
        )
        capacity = capacity_of(self.batches.batch_size * self.batches.length)
        pending: tuple[int, int, StepMetrics] | None = None
        count, dispatched = 1, self.meter.progress.step
        while dispatched < self.total and not interrupts.received and not self._enough():
            began = time.perf_counter()
            count = min(count, capacity, self.timetable.until_pause(dispatched))
            block = self.batches.block(dispatched, count, capacity)
            state, metrics = train_block(state, block, count)
            if pending:
                # Read one dispatch late: the device is already at work on the next.
                self.meter.steps(*pending)
            pending = (dispatched, count, metrics)
            dispatched += count
            if self.timetable.until_pause(dispatched - 1) == 1:
                self.meter.steps(*pending)
                pending = None
                with self.log.clock_stopped():
                    state = self._pause(state)
            count = next_count(count, time.perf_counter() - began)
        if pending:
            self.meter.steps(*pending)
        if self.budget.over and not self.timetable.validated_at(self.meter.progress.step):
            self.log.note(f"--max-minutes {self.training.max_minutes:g} are over")
            state = self._pause(state, last=True)
        if self.saved_step != self.meter.progress.step:
            self._save("last", state)
        if not _all_finite((state.params, state.iterate)):
            raise NotFiniteError(self.meter.progress.step, self.meter.progress.step)
        if self.checkpoints:
            self.checkpoints.wait()
        return state

    def _pause(self, state: TrainState, last: bool = False) -> TrainState:
        """Validates and saves, where this step calls for it; `last`: as at the end."""
        step, improved = self.total if last else self.meter.progress.step, False
        if self.timetable.validated_at(step):
            began = time.perf_counter()
            state, improved = self._validate(state)
            self.budget.validation_seconds = time.perf_counter() - began
        if last or self.timetable.saved_at(step):
            self._save("last", state)
        if improved:
            # After the last is on disk: a run that is killed between the two finds its best there.
            self._keep_best(state)
        return state

    def _validate(self, state: TrainState) -> tuple[TrainState, bool]:
        assert self.text.valid is not None
        rows = self.batching.batching == "rows"
        last = rows and self.batching.features == "last"
        scores = self.scorer.split(state.params, self.text.valid, rows, last)
        improved = self.meter.validation(scores)
        progress = self.meter.progress
        plateau = self.optimizer.schedule == "plateau"
        if plateau and progress.worse_since_decay >= self.optimizer.plateau_patience:
            progress.worse_since_decay = 0
            state = replace(state, lr_scale=state.lr_scale * self.optimizer.decay)
            self.log.note(f"step {progress.step:6d}  rate x {float(state.lr_scale):.4g}")
        if self.average and not state.averaged and self.average.begins(progress.valid_nlls):
            state = replace(state, averaged=jnp.ones((), jnp.float32))
            self.log.note(f"step {progress.step:6d}  the average of the parameters begins")
        return state, improved

    def _enough(self) -> bool:
        """Whether patience, or the budget, is at its end."""
        patience, worse = self.training.patience, self.meter.progress.worse_in_a_row
        return self.budget.over or (patience is not None and worse >= patience)

    def _save(self, kind: str, state: TrainState) -> None:
        # A step can be measured well and still break the parameters; the next one will tell.
        if self.checkpoints and _all_finite((state.params, state.iterate)):
            if kind == "best":
                self.checkpoints.wait()
            if self.budget.minutes:
                self.meter.progress.seconds = self.budget.seconds
            self.checkpoints.save(kind, state, {"progress": asdict(self.meter.progress)})
            self.saved_step = self.meter.progress.step if kind == "last" else self.saved_step


def _all_finite(params: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(params))
