"""The progress of a run: sums and counts between two log lines, and the best validation so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxlm.errors import UserError
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.log import Log, perplexity_of, shown_perplexity
from jaxlm.training.metrics import COUNTED, MUST_BE_FINITE
from jaxlm.training.step import StepMetrics

LARGE_GRADIENT = 50.0
"""The log shows a norm of the gradient, before clipping, that is at least this large. The loss is a
mean over tokens, so the norm of a training that goes well is hardly ever above 10. The log also
shows the norm beside a loss that is far above that of guessing."""


@dataclass
class Progress:
    """The numbers that the loop remembers between steps; every checkpoint has them.

    step: number of steps taken. interval_nll, interval_count: summed nll in nats, and number of
    targets, since the last train record of the log. best_nll, best_step: nll and step of the best
    validation. worse_in_a_row: validations since the best validation. worse_since_decay:
    validations since the best validation or the last decay of the rate, whichever is later.
    valid_nlls: the nll of every validation. valid_step: the step of the last validation, -1 before
    the first validation. seconds: time spent in all sessions, 0 without a time
    budget. interval_sums: the sums of the measurements COUNTED since the last train record.
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
    valid_step: int = -1
    interval_sums: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> "Progress":
        """Return the progress in the meta of a checkpoint.

        Raises:
          UserError: if a later version of jaxlm wrote it.
        """
        saved = meta.get("progress")
        known = {item.name for item in fields(cls)}
        if not isinstance(saved, dict) or not saved.keys() <= known:
            raise UserError(
                "`resume`: the checkpoint is of a later version of jaxlm: resume with that version"
            )
        return cls(**saved)


class NotFiniteError(UserError):
    """The loss or the gradient of a step is infinite or not a number.

    step: the first step whose loss is not finite. params_step: number of steps that led to the
    parameters with this loss, so the step of a checkpoint that is of no use.
    """

    def __init__(self, step: int, params_step: int) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.params_step = params_step


class Meter:
    """Adds up what steps and validations measured, and writes the log.

    Args:
      log: where records go.
      log_every: steps between two train records.
      steps_per_epoch: train steps in an epoch.
      total: train steps of the whole run; the last step is always logged. `report_rest` logs the
        last step of a run that ends earlier.
      vocab_size: number of tokens that the model chooses from.
      clips: whether the gradient is clipped.
    """

    def __init__(
        self,
        log: Log,
        log_every: int,
        steps_per_epoch: int,
        total: int,
        vocab_size: int,
        clips: bool,
    ) -> None:
        self.log, self.progress, self.total = log, Progress(), total
        self._vocab_size, self._clips = vocab_size, clips
        self._largest_norm, self._advised = 0.0, False
        self._last: tuple[float, dict[str, float]] | None = None
        self._log_every, self._steps_per_epoch = log_every, steps_per_epoch

    def steps(self, first: int, count: int, metrics: StepMetrics) -> None:
        """Add the measurements of some steps, and write the records that are due.

        Args:
          first: number of steps taken before these.
          count: number of steps.
          metrics: their measurements; entries after the first `count` are ignored.
        Raises:
          NotFiniteError: at the first step whose loss or gradient norm is not finite.
        """
        nll_K, count_K = (
            np.asarray(array)[:count].astype(np.float64)
            for array in (metrics.nll_K, metrics.count_K)
        )
        logged = {
            name: np.asarray(values_K)[:count].astype(np.float64)
            for name, values_K in metrics.logged.items()
        }
        checked = [nll_K, *(logged[name] for name in MUST_BE_FINITE)]
        bad_K = ~np.isfinite(np.stack(checked)).all(axis=0)
        if bad_K.any():
            taken = first + int(np.argmax(bad_K))
            raise NotFiniteError(taken + 1, taken)
        progress = self.progress
        for index in range(count):
            progress.step = first + index + 1
            progress.interval_nll += float(nll_K[index])
            progress.interval_count += float(count_K[index])
            self._largest_norm = max(self._largest_norm, float(logged["grad_norm"][index]))
            sums = progress.interval_sums
            for name in COUNTED:
                if name in logged:
                    sums[name] = sums.get(name, 0.0) + float(logged[name][index])
            values = {name: float(values_K[index]) for name, values_K in logged.items()}
            self._last = float(nll_K[index] / count_K[index]), values
            if progress.step % self._log_every == 0 or progress.step == self.total:
                self.report_rest()
        self.log.advance(progress.step, int(count_K.sum()), float(nll_K[-1] / count_K[-1]))

    def report_rest(self) -> None:
        """Write a train record of the steps since the last record, if this session took one."""
        if self._last is not None and self.progress.interval_count:
            cost, values = self._last
            self._report(cost, values | self.progress.interval_sums)

    def _report(self, cost: float, logged: dict[str, float]) -> None:
        """Write a train record; `cost` is the loss of the last step alone, in nats per token."""
        progress, epoch = self.progress, self.progress.step / self._steps_per_epoch
        loss = progress.interval_nll / progress.interval_count
        rate = f"{self.log.rate():8,.0f} tokens/s"
        ppl = shown_perplexity(perplexity_of(loss), 8)
        line = f"epoch {epoch:6.2f}  loss {loss:z.4f}  ppl {ppl}  {rate}"
        if self._steps_per_epoch == 1:
            # One batch is the whole text: the loss of this step is the loss of the text.
            loss, line = cost, f"cost {cost:z.6f}"
        largest = self._largest_norm
        explodes = largest >= LARGE_GRADIENT or loss > 1.5 * math.log(self._vocab_size)
        if explodes:
            line += f"  gradient {largest:.1e}"
        if logged.get("newton_fallbacks"):
            line += f"  newton fell back in {logged['newton_fallbacks']:.0f} steps"
        self.log.record(
            progress.step,
            {
                "split": "train",
                "epoch": round(epoch, 4),
                "loss": loss,
                "ppl": perplexity_of(loss),
                **logged,
            },
            f"step {progress.step:6d}  {line}",
        )
        if explodes and not self._advised:
            self._advised = True
            remedy = "a lower `lr`" if self._clips else "`clip` 1, or a lower `lr`"
            what = f"the training explodes (norm of the gradient {largest:.1e})"
            self.log.warn(f"{what}: try {remedy}")
        progress.interval_nll = progress.interval_count = self._largest_norm = 0.0
        progress.interval_sums = {}

    def validation(self, scores: TokenScores) -> bool:
        """Add and log a validation, and return whether it is the best so far.

        Raises:
          NotFiniteError: if the loss is not finite.
        """
        progress, tokens = self.progress, len(scores.log_prob)
        if not math.isfinite(scores.nll):
            raise NotFiniteError(progress.step, progress.step)
        progress.valid_nlls.append(scores.nll)
        progress.valid_step = progress.step
        ppl, improved = perplexity_of(scores.nll / tokens), scores.nll < progress.best_nll
        progress.worse_in_a_row = 0 if improved else progress.worse_in_a_row + 1
        progress.worse_since_decay = 0 if improved else progress.worse_since_decay + 1
        if improved:
            progress.best_nll, progress.best_step = scores.nll, progress.step
        verdict = "  best" if improved else ""
        if ppl > self._vocab_size:
            # Even the best validation so far is no success then.
            verdict = f"  worse than guessing (ppl {self._vocab_size:,})"
        self.log.record(
            progress.step,
            {"split": "valid", "nll": scores.nll, "tokens": tokens, "ppl": ppl},
            f"step {progress.step:6d}  valid loss {scores.nll / tokens:z.4f}  "
            f"ppl {shown_perplexity(ppl, 8)}{verdict}",
        )
        return improved
