"""How a run adapts: what is given, and what validation is to choose."""

from dataclasses import dataclass

from jaxlm.errors import UserError, choose
from jaxlm.evaluation.adaptation.dynamic import RULES
from jaxlm.models.layers import RATES
from jaxlm.models.neural import NeuralModel
from jaxlm.runs.run import Run


@dataclass(frozen=True)
class Adaptation:
    """How a run is measured.

        P(w | h) = (1 - λ) softmax(y / τ)_w + λ P_cache(w | h)

    temperature: τ. cache: how many of the last states are kept, 0 for none; flatness: θ, and share:
    λ, of the cache. dynamic: a rule of RULES by which the parameters follow the text, a step every
    `dynamic_steps` tokens, once these are scored; dynamic_lr: η, and dynamic_decay: λ, of the rule.
    samples: of how many networks with other dropout masks the probabilities are averaged (MC
    dropout: Gal & Ghahramani 2016), 0 for the one without dropout; seed: of their masks.

    None: chosen on the validation split: η and λ of the rule on its beginning, then τ, θ, and with
    each θ the best share.
    """

    temperature: float | None = 1.0
    cache: int = 0
    flatness: float | None = None
    share: float | None = None
    dynamic: str = "none"
    dynamic_lr: float | None = None
    dynamic_decay: float | None = None
    dynamic_steps: int = 10
    samples: int = 0
    seed: int = 0
    chosen: str = ""

    def check(self) -> None:
        """Raises UserError for a setting that cannot be."""
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(f"--temperature {self.temperature}: must be above 0, or auto")
        for flag, value in {"cache": self.cache, "mc-samples": self.samples}.items():
            if value < 0:
                raise UserError(f"--{flag} {value}: must be at least 0 (0: none)")
        if self.flatness is not None and not self.flatness >= 0:
            raise UserError(f"--cache-flatness {self.flatness}: must be at least 0")
        if self.share is not None and not 0 <= self.share < 1:
            raise UserError(f"--cache-share {self.share}: must be at least 0 and below 1")
        if self.dynamic != "none":
            choose(RULES, self.dynamic, "dynamic-rule")
        if self.dynamic_lr is not None and not self.dynamic_lr > 0:
            raise UserError(f"--dynamic-lr {self.dynamic_lr}: must be above 0")
        if self.dynamic_decay is not None and not 0 <= self.dynamic_decay <= 1:
            raise UserError(f"--dynamic-decay {self.dynamic_decay}: must be between 0 and 1")
        if self.dynamic_steps < 1:
            raise UserError(f"--dynamic-steps {self.dynamic_steps}: must be at least 1")

    def check_run(self, run: Run) -> None:
        """Raises UserError for a run that cannot be adapted so."""
        if not adaptable(run):
            raise UserError(
                f"{run.name} cannot be adapted: --cache, --dynamic, --temperature and --mc-samples "
                f"are for neural models that read one stream (--batching streams or windows)"
            )
        if self.samples and not any(getattr(run.model, rate, None) for rate in RATES):
            raise UserError(
                f"--mc-samples {self.samples}: {run.name} was trained without dropout, so all "
                f"samples would be the same; leave the flag out"
            )

    @property
    def open(self) -> bool:
        """Whether anything is left for validation to choose."""
        cache = self.cache > 0 and None in (self.flatness, self.share)
        return self.temperature is None or cache or self.dynamic_open

    @property
    def dynamic_open(self) -> bool:
        """Whether the rule's numbers are left to choose."""
        return self.dynamic != "none" and None in (self.dynamic_lr, self.dynamic_decay)

    def __str__(self) -> str:
        # Of 1 too: that it changes nothing may be what validation chose.
        parts = [f"temperature {self.temperature:g}"]
        if self.samples:
            parts.append(f"the mean of {self.samples} dropout masks, seed {self.seed}")
        if self.dynamic != "none":
            parts.append(
                f"dynamic evaluation ({self.dynamic}), a step every {self.dynamic_steps} tokens, "
                f"rate {self.dynamic_lr:g}, decay {self.dynamic_decay:g}"
            )
        if self.cache:
            parts.append(
                f"cache of the last {self.cache:,} states, flatness {self.flatness:g}, share "
                f"{self.share:.4f}"
            )
        return f"Adapted: {'; '.join(parts)}{self.chosen}"


def adaptable(run: Run) -> bool:
    """Whether a run can be adapted: a neural model, measured on one stream."""
    return isinstance(run.model, NeuralModel) and not run.in_rows
