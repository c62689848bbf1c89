"""The training loop: dispatch, measure, validate, keep."""

import math
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxlm.data.batching import Batches, BatchingConfig, make_batches
from jaxlm.data.corpora import Text
from jaxlm.errors import UserError, choose
from jaxlm.models import describe_model
from jaxlm.models.base import LanguageModel
from jaxlm.scoring import Scorer
from jaxlm.training.checkpoints import Checkpoints
from jaxlm.training.interrupts import Interrupts
from jaxlm.training.log import Log, perplexity_of
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.runs import CHECKPOINTS, Run, claim_folder
from jaxlm.training.state import TrainState, init_state
from jaxlm.training.step import StepMetrics, make_train_block

# Steps in one dispatch: as many as fill this time, so that the live line moves and Ctrl-C is heard.
DISPATCH_SECONDS = 0.2
# int32 inputs and targets and float32 weights of one block stay under about 12 MB.
BLOCK_TOKENS = 1 << 20


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, and what to keep of it."""

    epochs: float = 10
    """Passes over the training text."""
    steps: int | None = None
    """Steps to train, in place of --epochs."""
    seed: int = 0
    """Fixes every random choice: the same command and seed give the same bytes on the same machine."""
    log_every: int = 200
    """Steps between two lines of the log."""
    eval_every: int | None = None
    """Steps between two validations (default: every epoch)."""
    patience: int | None = None
    """Stop after this many validations without improvement."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints (default: at every validation)."""
    tensorboard: bool = False
    """Write TensorBoard event files too (extra: tensorboard)."""


@dataclass
class Progress:
    """What the loop remembers between steps; saved with every checkpoint."""

    step: int = 0
    interval_nll: float = 0.0
    interval_count: float = 0.0
    best_nll: float = math.inf
    best_step: int = 0
    worse_in_a_row: int = 0
    worse_since_decay: int = 0


def fit(
    model: LanguageModel,
    text: Text,
    *,
    batching: BatchingConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    training: TrainingConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    console: Console | None = None,
    **options: Any,
) -> Run:
    """Trains `model` on `text` and returns the run, with the best parameters by validation (the last, without a valid split).

        run = jaxlm.fit(model, jaxlm.read_corpus("ptb"), epochs=5, lr=1e-3, batch_size=20, folder="runs/mine")

    `options` are fields of the three configs by name. With `folder`, everything is kept there; with `resume` too, training
    goes on from its last checkpoint exactly as if it had never stopped. `config` is kept in config.json beside the sections.

    Raises UserError for a setting that cannot work, a loss that is not finite, and a disk that is full.
    """
    sections = [batching or BatchingConfig(), optimizer or OptimizerConfig(), training or TrainingConfig()]
    batching, optimizer, training = _with_options(sections, options)
    loop = _Loop(model, text, batching, optimizer, training, Path(folder) if folder else None, console)
    return loop.run(resume, config or {})


def _with_options(sections: list[Any], options: dict[str, Any]) -> list[Any]:
    known = {field.name: index for index, section in enumerate(sections) for field in fields(section)}
    for name, value in options.items():
        index = choose(known, name, "option of fit")
        sections[index] = replace(sections[index], **{name: value})
    return sections


class _Loop:
    """One call of `fit`."""

    def __init__(
        self,
        model: LanguageModel,
        text: Text,
        batching: BatchingConfig,
        optimizer: OptimizerConfig,
        training: TrainingConfig,
        folder: Path | None,
        console: Console | None,
    ) -> None:
        self.model, self.text, self.folder = model, text, folder
        self.batching, self.optimizer, self.training = batching, optimizer, training
        if model.vocab_size != len(text.vocabulary):
            raise UserError(
                f"the model has vocab_size {model.vocab_size}, the text {len(text.vocabulary)} tokens: "
                f"they must be equal"
            )
        self.batches = self._make_batches()
        self.total = self._total_steps()
        horizon = Horizon(self.batches.steps_per_epoch, self.total)
        self.transform = make_optimizer(optimizer, horizon)
        self.key = jax.random.key(training.seed)
        self.eval_every = training.eval_every or self.batches.steps_per_epoch
        self.has_valid = text.valid is not None and len(text.valid) > 0
        default = self.eval_every if self.has_valid else max(1000, self.batches.steps_per_epoch)
        self.checkpoint_every = training.checkpoint_every or default
        self.saved_step = -1
        self.scorer = Scorer(model)
        self.progress = Progress()
        self.best_params: Any = None
        self.log = Log(folder, console, self.total, training.tensorboard)
        self.checkpoints: Checkpoints | None = None

    def _make_batches(self) -> Batches:
        n_step = (self.model.context_size or self.batching.bptt - 1) + 1
        return make_batches(self.text.train, self.batching, n_step, self.training.seed)

    def _total_steps(self) -> int:
        training = self.training
        for name in ("steps", "epochs", "log_every", "eval_every", "checkpoint_every", "patience"):
            value = getattr(training, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be above 0")
        return training.steps or max(1, round(training.epochs * self.batches.steps_per_epoch))

    def run(self, resume: bool, config: dict[str, Any]) -> Run:
        """The whole of training."""
        description = self._description(config)
        if self.folder:
            claim_folder(self.folder, description, self.text.tokenizer, resume)
            self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.log.warn)
        try:
            with self.log, Interrupts() as interrupts:
                state = self._train(self._start(resume), interrupts)
                if interrupts.received:
                    self.log.note(f"stopped at step {self.progress.step} of {self.total}; saved")
        finally:
            if self.checkpoints:
                self.checkpoints.close()
        params = self.best_params if self.best_params is not None else state.params
        step = self.progress.best_step if self.best_params is not None else self.progress.step
        return Run(
            self.model, params, self.text.tokenizer, description, self.folder, step, interrupts.received
        )

    def _description(self, config: dict[str, Any]) -> dict[str, Any]:
        # A model of one's own need not be in MODELS, unless its run is to be loaded again.
        name, network = describe_model(self.model) if self.folder else (type(self.model).__name__, {})
        sections = {"batching": self.batching, "optimizer": self.optimizer, "training": self.training}
        described = {title: asdict(section) for title, section in sections.items()}
        return config | {"model": name, "network": network} | described

    def _start(self, resume: bool) -> TrainState:
        init_key, _ = jax.random.split(self.key)
        state = init_state(self.model, self.transform, init_key, self.batches.batch_size)
        if resume and self.checkpoints and (restored := self.checkpoints.restore(state)):
            state, meta = restored
            # Copies into memory of JAX's own, which the donated train step may then take over.
            state = jax.tree.map(lambda array: jnp.array(array, copy=True), state)
            self.progress = Progress(**meta["progress"])
            self.saved_step = self.progress.step
            best = self.checkpoints.restore_params(state.params)
            if best and best[2] == "best" and best[1]["step"] == self.progress.best_step:
                self.best_params = jax.tree.map(jnp.asarray, best[0])
            self.log.note(f"resumed at step {self.progress.step} of {self.total}")
        self.log.start_from(self.progress.step)
        return state

    def _train(self, state: TrainState, interrupts: Interrupts) -> TrainState:
        step_key = jax.random.split(self.key)[1]
        train_block = make_train_block(self.model, self.transform, step_key, self.batches.features)
        capacity = self._capacity()
        pending: tuple[int, int, StepMetrics] | None = None
        count, dispatched = 1, self.progress.step
        while dispatched < self.total and not interrupts.received and not self._out_of_patience():
            began = time.perf_counter()
            count = min(count, capacity, self._until_pause(dispatched))
            block = self.batches.block(dispatched, count, capacity)
            state, metrics = train_block(state, block, count)
            if pending:
                # Read one dispatch late: the device is already at work on the next.
                self._digest(*pending)
            pending = (dispatched, count, metrics)
            dispatched += count
            if self._until_pause(dispatched - 1) == 1:
                self._digest(*pending)
                pending = None
                state = self._pause(state)
            count = _next_count(count, time.perf_counter() - began)
        if pending:
            self._digest(*pending)
        if self.saved_step != self.progress.step:
            self._save("last", state)
        if self.checkpoints:
            self.checkpoints.wait()
        return state

    def _capacity(self) -> int:
        tokens = self.batches.batch_size * self.batches.length
        return max(1, min(256, BLOCK_TOKENS // tokens))

    def _until_pause(self, step: int) -> int:
        """Steps from `step` to the next validation, checkpoint, or end."""
        pauses = [self.checkpoint_every] + ([self.eval_every] if self.has_valid else [])
        if not self.checkpoints and not self.has_valid:
            return self.total - step
        return min([every - step % every for every in pauses] + [self.total - step])

    def _saved_at(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or (self.has_valid and step % self.eval_every == 0)

    def _digest(self, first: int, count: int, metrics: StepMetrics) -> None:
        """Reads the metrics of `count` steps and logs what is due."""
        nll, counts, norms = (np.asarray(array)[:count].astype(np.float64) for array in metrics)
        bad = ~(np.isfinite(nll) & np.isfinite(norms))
        if bad.any():
            raise self._not_finite(first + int(np.argmax(bad)) + 1)
        progress = self.progress
        for index in range(count):
            progress.step = first + index + 1
            progress.interval_nll += float(nll[index])
            progress.interval_count += float(counts[index])
            if progress.step % self.training.log_every == 0 or progress.step == self.total:
                # When one batch is the whole text, the cost at this very step is what is known.
                whole = self.batches.steps_per_epoch == 1
                mean = nll[index] / counts[index] if whole else progress.interval_nll / progress.interval_count
                self._report(float(mean), float(norms[index]))
                progress.interval_nll = progress.interval_count = 0.0
        self.log.advance(progress.step, int(counts.sum()), float(nll[-1] / max(counts[-1], 1)))

    def _report(self, loss: float, grad_norm: float) -> None:
        step, ppl = self.progress.step, perplexity_of(loss)
        epoch = step / self.batches.steps_per_epoch
        values = {"split": "train", "epoch": round(epoch, 4), "loss": loss, "ppl": ppl, "grad_norm": grad_norm}
        if self.batches.steps_per_epoch == 1:
            line = f"step {step:5d}  cost {loss:.6f}"
        else:
            rate = self.log.rate()
            line = f"step {step:6d}  epoch {epoch:6.2f}  loss {loss:.4f}  ppl {ppl:8.2f}  {rate:8,.0f} tokens/s"
        self.log.record(step, values, line)

    def _not_finite(self, step: int) -> UserError:
        kept = "no checkpoint was written yet"
        if self.checkpoints:
            self.checkpoints.wait()
            kept = f"the last good checkpoint in {self.folder} is kept"
        return UserError(
            f"the loss is not finite at step {step}: lower --lr (now {self.optimizer.lr}) or set --clip "
            f"(now {self.optimizer.clip}); {kept}"
        )

    def _pause(self, state: TrainState) -> TrainState:
        """Validates and saves, where this step calls for it."""
        step = self.progress.step
        if self.has_valid and (step % self.eval_every == 0 or step == self.total):
            state = self._validate(state)
        if self._saved_at(step):
            self._save("last", state)
        return state

    def _validate(self, state: TrainState) -> TrainState:
        progress, valid = self.progress, self.text.valid
        assert valid is not None
        rows = self.batching.batching == "rows"
        last = rows and self.batching.features == "last"
        scores = self.scorer.split(state.params, valid, rows, last)
        mean = scores.nll / len(scores.log_prob)
        improved = scores.nll < progress.best_nll
        progress.worse_in_a_row = 0 if improved else progress.worse_in_a_row + 1
        progress.worse_since_decay = 0 if improved else progress.worse_since_decay + 1
        values = {"split": "valid", "nll": scores.nll, "tokens": len(scores.log_prob), "ppl": perplexity_of(mean)}
        mark = "  best" if improved else ""
        line = f"step {progress.step:6d}  valid loss {mean:.4f}  ppl {perplexity_of(mean):8.2f}{mark}"
        self.log.record(progress.step, values, line)
        if improved:
            progress.best_nll, progress.best_step = scores.nll, progress.step
            self.best_params = jax.tree.map(lambda array: jnp.array(array, copy=True), state.params)
            self._save("best", state)
        plateau = self.optimizer.schedule == "plateau"
        if plateau and progress.worse_since_decay >= self.optimizer.plateau_patience:
            progress.worse_since_decay = 0
            state = state.replace(lr_scale=state.lr_scale * self.optimizer.decay)
            self.log.note(f"step {progress.step:6d}  rate x {float(state.lr_scale):.4g}")
        return state

    def _out_of_patience(self) -> bool:
        patience = self.training.patience
        return patience is not None and self.progress.worse_in_a_row >= patience

    def _save(self, kind: str, state: TrainState) -> None:
        if self.checkpoints:
            self.checkpoints.save(kind, state, {"progress": asdict(self.progress)})
            self.saved_step = self.progress.step if kind == "last" else self.saved_step


def _next_count(count: int, seconds: float) -> int:
    """Steps for the next dispatch: towards DISPATCH_SECONDS, at most eight times as many as before."""
    return max(1, min(8 * count, int(count * DISPATCH_SECONDS / max(seconds, 1e-6))))
