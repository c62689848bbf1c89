"""Settings of an adaptation, and which runs can adapt."""

from dataclasses import dataclass
from typing import Annotated

from jaxlm.errors import SettingError, UserError, choose
from jaxlm.evaluation.adaptation.dynamic import UPDATE_RULES
from jaxlm.models.layers import RATES
from jaxlm.models.neural import NeuralModel
from jaxlm.ranges import NotNegative, Positive, Range, Rate, Seed, Share, Size, check_settings
from jaxlm.runs.run import Run

# The settings of each kind of adaptation, by the setting that turns it on.
PARTS = {
    "cache": ("flatness", "share"),
    "dynamic": ("dynamic_lr", "dynamic_decay", "dynamic_steps"),
    "samples": ("seed",),
}


@dataclass(frozen=True)
class Adaptation:
    """Settings of a run that adapts to the text that it reads.

        P(w | h) = (1 - λ) softmax(y / τ)_w + λ P_cache(w | h)
        P_cache(w | h_t) = Σ_i [w_{i+1} = w] exp(θ h_t·h_i) / Σ_i exp(θ h_t·h_i)

    The sums run over the last `cache` positions i before t. The word w_{i+1} followed the hidden
    state h_i (Grave, Joulin & Usunier 2017). Before the first token, the cache is empty, and the
    model alone predicts.

    With a rule of dynamic evaluation, the parameters take a step after every `dynamic_steps`
    tokens. Every token is scored before its gradient is used.

    A setting that is None is tuned on the validation split. First the rate and the decay of the
    rule are tuned on the first tokens of the split. Then the temperature is tuned, and then the
    flatness, each flatness with its best share.

    Example:
      >>> from jaxlm import Adaptation
      >>> print(Adaptation(temperature=0.9, cache=500, flatness=0.3, share=0.1))
      Adapted: temperature 0.9; cache of the last 500 states, flatness 0.3, share 0.1000

    Attributes:
      temperature: τ, divides the logits y.
      cache: number of hidden states that the continuous cache keeps, 0 for no cache.
      flatness: θ, at least 0. A larger θ gives more weight to states that are similar to h_t.
      share: λ, weight of the cache, at least 0 and below 1.
      dynamic: rule of dynamic evaluation, "sgd" or "rms"; "none" leaves the parameters as trained.
      dynamic_lr: learning rate of the rule.
      dynamic_decay: decay rate of the rule, from 0 to 1: in a step, the parameters move back to the
        trained parameters by about this share of the difference.
      dynamic_steps: number of tokens from one step of the rule to the next.
      samples: number of dropout masks over which the probabilities are averaged (MC dropout: Gal &
        Ghahramani 2016), 0 for no dropout.
      seed: seed of the dropout masks.
      tuned_on: phrase for the report that says which tokens the settings were tuned on. Tuning
        writes this phrase; leave it empty.
    """

    temperature: Positive | None = 1.0
    cache: Annotated[int, Range(0)] = 0
    flatness: NotNegative | None = None
    share: Rate | None = None
    dynamic: str = "none"
    dynamic_lr: Positive | None = None
    dynamic_decay: Share | None = None
    dynamic_steps: Size = 10
    samples: Annotated[int, Range(0)] = 0
    seed: Seed = 0
    tuned_on: str = ""

    def check(self) -> None:
        """Raise SettingError or UserError for a value that is not possible."""
        check_settings(self)
        if self.dynamic != "none":
            choose(UPDATE_RULES, self.dynamic, "rule of dynamic evaluation")
        for whole, parts in PARTS.items():
            if getattr(self, whole) in (0, "none"):
                for part in parts:
                    if getattr(self, part) != getattr(Adaptation, part):
                        why = f"has no effect without `{whole}`: set it too, or leave `{part}` out"
                        raise SettingError(part, getattr(self, part), why)

    def check_run(self, run: Run) -> None:
        """Raise SettingError or UserError for a run that cannot adapt in this way."""
        if not can_adapt(run):
            raise UserError(
                f"{run.name} cannot be adapted: `cache`, `dynamic`, `temperature` and `samples` "
                f"are for neural models that read one stream (`batching` streams or windows)"
            )
        if self.samples and not any(getattr(run.model, rate, None) for rate in RATES):
            raise SettingError(
                "samples",
                self.samples,
                f"{run.name} was trained without dropout, so all samples would be the same; leave "
                f"`samples` out",
            )

    @property
    def needs_tuning(self) -> bool:
        """True if a setting is None and must be tuned on the validation split."""
        return self.temperature is None or self.cache_needs_tuning or self.rule_needs_tuning

    @property
    def cache_needs_tuning(self) -> bool:
        """True if the flatness or the share of the cache must be tuned."""
        return self.cache > 0 and None in (self.flatness, self.share)

    @property
    def rule_needs_tuning(self) -> bool:
        """True if the rate or the decay of the rule must be tuned."""
        return self.dynamic != "none" and None in (self.dynamic_lr, self.dynamic_decay)

    def __str__(self) -> str:
        # A temperature of 1 is listed too: it can be the result of tuning.
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
        return f"Adapted: {'; '.join(parts)}{self.tuned_on}"


def can_adapt(run: Run) -> bool:
    """Return whether a run can adapt: it has a neural model that is evaluated on one stream."""
    return isinstance(run.model, NeuralModel) and not run.protocol.rows
