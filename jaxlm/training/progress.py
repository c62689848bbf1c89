"""How far a run goes and has come: sums and counts between log lines, and the best so far."""

import math
from dataclasses import dataclass, field

import numpy as np

from jaxlm.errors import UserError
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.log import Log, perplexity_of
from jaxlm.training.step import StepMetrics


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train, and what to keep of it."""

    epochs: float = 10
    """Passes over the training text."""
    steps: int | None = None
    """Steps to train, in place of --epochs (none: --epochs decides)."""
    max_minutes: float | None = None
    """Stop within this wall-clock time: no more steps than fit into it, schedules shrunk to them,
    and again when the machine gets slower or faster (with --steps: those, and no others)."""
    seed: int = 0
    """Fixes every random choice: same command, seed and machine give the same bytes."""
    log_every: int = 200
    """Steps between two lines of the log."""
    eval_every: int | None = None
    """Steps between two validations (none: every epoch)."""
    patience: int | None = None
    """Stop after this many validations without improvement (none: train to the end)."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints (none: at every validation)."""
    checkpoint_minutes: float | None = None
    """Minutes between two checkpoints, beside those (none: by steps alone)."""
    keep: int = 2
    """How many of the last checkpoints are kept, beside the best."""
    checkpoint_folder: str | None = None
    """Where checkpoints go, such as gs://bucket/runs (none: into the run's folder)."""
    tensorboard: bool = False
    """Write TensorBoard event files too (extra: tensorboard)."""


def total_steps(config: TrainingConfig, steps_per_epoch: int) -> int:
    """How many steps `config` asks for. Raises UserError for a number that makes no sense."""
    numbers = ("steps", "epochs", "log_every", "eval_every", "checkpoint_every", "patience")
    for name in (*numbers, "max_minutes", "checkpoint_minutes", "keep"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be above 0")
    if config.seed < 0:
        raise UserError(f"--seed {config.seed}: must be 0 or more")
    return config.steps or max(1, round(config.epochs * steps_per_epoch))


@dataclass
class Progress:
    """What the loop remembers between steps; saved with every checkpoint.

    nll and count are sums since the last line of the log, valid_nlls those of all validations;
    losses are in nats. seconds: spent so far, where there is a budget.
    """

    step: int = 0
    interval_nll: float = 0.0
    interval_count: float = 0.0
    best_nll: float = math.inf
    best_step: int = 0
    worse_in_a_row: int = 0
    worse_since_decay: int = 0
    valid_nlls: list[float] = field(default_factory=list)
    seconds: float = 0.0


class NotFiniteError(UserError):
    """The loss or the gradient at a step is infinite or not a number.

    params_step: how many steps led to the parameters that gave it.
    """

    def __init__(self, step: int, params_step: int) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.params_step = params_step


class Meter:
    """Turns what steps and validations measured into progress, and tells the log."""

    def __init__(self, log: Log, log_every: int, steps_per_epoch: int, total: int) -> None:
        self.log, self.progress = log, Progress()
        self._log_every, self.total = log_every, total
        self._steps_per_epoch = steps_per_epoch

    def steps(self, first: int, count: int, metrics: StepMetrics) -> None:
        """Adds the `count` steps after `first`, and logs what is due; raises NotFiniteError."""
        nll, counts, norms = (np.asarray(array)[:count].astype(np.float64) for array in metrics)
        bad = ~(np.isfinite(nll) & np.isfinite(norms))
        if bad.any():
            taken = first + int(np.argmax(bad))
            raise NotFiniteError(taken + 1, taken)
        progress = self.progress
        for index in range(count):
            progress.step = first + index + 1
            progress.interval_nll += float(nll[index])
            progress.interval_count += float(counts[index])
            if progress.step % self._log_every == 0 or progress.step == self.total:
                self._report(float(nll[index] / counts[index]), float(norms[index]))
        self.log.advance(progress.step, int(counts.sum()), float(nll[-1] / counts[-1]))

    def _report(self, cost: float, grad_norm: float) -> None:
        progress, epoch = self.progress, self.progress.step / self._steps_per_epoch
        loss = progress.interval_nll / progress.interval_count
        rate = f"{self.log.rate():8,.0f} tokens/s"
        line = f"epoch {epoch:6.2f}  loss {loss:.4f}  ppl {perplexity_of(loss):8.2f}  {rate}"
        if self._steps_per_epoch == 1:
            # One batch is the whole text, so the loss of this very step is known, not only a mean.
            loss, line = cost, f"cost {cost:.6f}"
        self.log.record(
            progress.step,
            {
                "split": "train",
                "epoch": round(epoch, 4),
                "loss": loss,
                "ppl": perplexity_of(loss),
                "grad_norm": grad_norm,
            },
            f"step {progress.step:6d}  {line}",
        )
        progress.interval_nll = progress.interval_count = 0.0

    def validation(self, scores: TokenScores) -> bool:
        """Adds a validation; returns whether it is the best so far."""
        progress, tokens = self.progress, len(scores.log_prob)
        if not math.isfinite(scores.nll):
            raise NotFiniteError(progress.step, progress.step)
        progress.valid_nlls.append(scores.nll)
        ppl, improved = perplexity_of(scores.nll / tokens), scores.nll < progress.best_nll
        progress.worse_in_a_row = 0 if improved else progress.worse_in_a_row + 1
        progress.worse_since_decay = 0 if improved else progress.worse_since_decay + 1
        if improved:
            progress.best_nll, progress.best_step = scores.nll, progress.step
        self.log.record(
            progress.step,
            {"split": "valid", "nll": scores.nll, "tokens": tokens, "ppl": ppl},
            f"step {progress.step:6d}  valid loss {scores.nll / tokens:.4f}  ppl {ppl:8.2f}"
            + ("  best" if improved else ""),
        )
        return improved
