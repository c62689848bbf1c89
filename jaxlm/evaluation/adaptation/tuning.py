"""Evaluate a run with an adaptation. Tune the settings that are None on the validation split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.errors import UserError
from jaxlm.evaluation.adaptation.dynamic import (
    UPDATE_RULES,
    RuleArguments,
    training_rms,
    unused_rms,
)
from jaxlm.evaluation.adaptation.reading import CHUNK, LogProbs, ReadingOptions, read
from jaxlm.evaluation.adaptation.settings import Adaptation
from jaxlm.evaluation.interpolation import em_weights, interpolated
from jaxlm.evaluation.perplexity import Report, check_where, open_split, report
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.run import Run

TEMPERATURES = tuple(round(0.70 + 0.05 * step, 2) for step in range(13))
FLATNESSES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
# Candidates for each rule. The rate is tuned first, with the first decay; then the decay is tuned.
# Rate and decay are tuned on this many tokens at the beginning of the validation split.
TUNING_TOKENS = 10_000


def adapted(
    run: Run,
    adaptation: Adaptation,
    *,
    corpus: str | Path | None = None,
    split: str | None = None,
    text: str | Path | None = None,
) -> Report:
    """Return the perplexity of `run` while it adapts to the text.

    Example:
      >>> import jaxlm
      >>> from rich.console import Console
      >>> text = jaxlm.read_corpus("toy")
      >>> model = jaxlm.GRU(vocab_size=len(text.vocabulary), start_id=text.vocabulary.start_id)
      >>> quiet = Console(quiet=True)
      >>> run = jaxlm.fit(model, text, batch_size=1, bptt=4, steps=20, console=quiet)
      >>> cache = jaxlm.Adaptation(temperature=0.9, cache=8, flatness=0.5, share=0.2)
      >>> report = jaxlm.adapted(run, cache, split="train")
      >>> print(report.protocol.split(". ")[1])
      Adapted: temperature 0.9; cache of the last 8 states, flatness 0.5, share 0.2000.

    Args:
      run: a run with a neural model that reads one stream.
      adaptation: how the run adapts. Settings that are None are tuned on the validation split.
      corpus: name or path of the corpus; None for the corpus that the run was trained on.
      split: "train", "valid" or "test"; None for the first of test, valid and train that exists.
      text: a text file to evaluate as a whole, instead of a corpus.
    Raises:
      SettingError: for a value that is not possible, and for an argument that has no effect, such
        as a split beside a text.
      UserError: for a run that cannot adapt, and for a corpus without a validation split if a
        setting must be tuned.
    """
    adaptation.check()
    check_where(None if _reads_corpus(adaptation) else corpus, split, text)
    evaluator = AdaptiveEvaluator(run, corpus)
    # The validation split is read first, for tuning. Only then is the evaluated text read.
    adaptation = evaluator.tune(adaptation)
    opened = open_split(run, corpus if text is None else None, split, text)
    return evaluator.report(adaptation, opened, evaluator.log_probs(adaptation, opened))


def _reads_corpus(adaptation: Adaptation) -> bool:
    """Return whether the corpus is read even if a text is evaluated: to tune, or for the rule."""
    rule = UPDATE_RULES.get(adaptation.dynamic)
    return adaptation.needs_tuning or (rule is not None and rule.needs_rms)


class AdaptiveEvaluator:
    """Evaluate one run with adaptations.

    It computes the root mean squares of the training gradients once, when a rule first needs them.

    Args:
      run: a run that can adapt.
      corpus: name or path of the corpus; None for the corpus that the run was trained on.
    """

    def __init__(self, run: Run, corpus: str | Path | None = None) -> None:
        self.run, self.corpus = run, corpus
        self._training_rms: dict[tuple[bool, int], Any] = {}

    def tune(self, adaptation: Adaptation) -> Adaptation:
        """Return the adaptation with the settings that are None tuned on the validation split.

        Raises:
          SettingError: for a value that is not possible.
          UserError: for a run that cannot adapt, and for a corpus without a validation split if a
            setting must be tuned.
        """
        adaptation.check()
        adaptation.check_run(self.run)
        if not adaptation.needs_tuning:
            return adaptation
        try:
            valid = open_split(self.run, self.corpus, "valid")
        except UserError as error:
            raise UserError(
                f"open settings are tuned on the validation split, which cannot be read ({error}): "
                f"set `temperature`, `flatness`, `share`, `dynamic_lr`, `dynamic_decay`"
            ) from None
        tuned_on = [f"{valid.name}, {len(valid):,} tokens"]
        if adaptation.rule_needs_tuning:
            adaptation = _tune_rule(self, adaptation, valid.ids[:TUNING_TOKENS])
            tuned_on.append(f"rate and decay on its first {min(TUNING_TOKENS, len(valid)):,}")
        adaptation = replace(adaptation, tuned_on=f" (tuned on {'; '.join(tuned_on)})")
        return _tune_distribution(self, adaptation, valid)

    def log_probs(self, adaptation: Adaptation, split: Split) -> np.ndarray:
        """Return the log-probability of every token of a split, [T].

        No setting of `adaptation` that it uses is None: see `tune`.
        """
        assert adaptation.temperature is not None
        temperatures, flatnesses = [adaptation.temperature], [adaptation.flatness or 0.0]
        log_probs = self.read(adaptation, split.ids, temperatures, flatnesses)
        if not adaptation.cache:
            return log_probs.model_KT[0]
        share = adaptation.share or 0.0
        return interpolated(log_probs.with_cache(0, 0), [1 - share, share])

    def report(self, adaptation: Adaptation, split: Split, log_probs_T: np.ndarray) -> Report:
        """Return the report of `log_probs_T`, with the adaptation in its protocol."""
        plain = report(self.run, split, TokenScores(log_probs_T))
        protocol = f"{plain.protocol} {adaptation}."
        return replace(plain, run=f"{self.run.name}, adapted", protocol=protocol)

    def read(
        self,
        adaptation: Adaptation,
        ids: np.ndarray,
        temperatures: Sequence[float] = (1.0,),
        flatnesses: Sequence[float] = (0.0,),
        cache: int | None = None,
    ) -> LogProbs:
        """Return the log-probabilities of one stream, for each temperature and flatness.

        Args:
          adaptation: the adaptation; its rate and decay are set.
          ids: token ids of the stream, integers [number of tokens].
          temperatures: values of τ, in place of the adaptation's temperature.
          flatnesses: values of θ, in place of the adaptation's flatness.
          cache: number of states in the cache; None for the adaptation's number.
        """
        cache = adaptation.cache if cache is None else cache
        options = ReadingOptions(cache, adaptation.samples, adaptation.dynamic)
        segment_length, arguments = CHUNK, None
        if adaptation.dynamic != "none":
            segment_length = adaptation.dynamic_steps
            rms, mean_rms = self._rms(UPDATE_RULES[adaptation.dynamic].needs_rms, segment_length)
            arguments = RuleArguments(
                rms, mean_rms, adaptation.dynamic_lr, adaptation.dynamic_decay
            )
        return read(
            self.run.model,  # type: ignore[arg-type]
            self.run.params,
            ids,
            options,
            temperatures,
            flatnesses,
            seed=adaptation.seed,
            segment_length=segment_length,
            rule_arguments=arguments,
        )

    def _rms(self, needed: bool, segment_length: int) -> Any:
        """Return `training_rms`, computed once; if it is not `needed`, return `unused_rms`."""
        key = needed, segment_length
        if key not in self._training_rms:
            model, params = self.run.model, self.run.params
            if needed:
                ids = open_split(self.run, self.corpus, "train").ids
                rms = training_rms(model, params, ids, segment_length)  # type: ignore[arg-type]
            else:
                rms = unused_rms(params)
            self._training_rms[key] = rms
        return self._training_rms[key]


def _tune_rule(evaluator: AdaptiveEvaluator, adaptation: Adaptation, ids: np.ndarray) -> Adaptation:
    """Return the adaptation with the best rate and decay of the rule.

    First the rate and then the decay is chosen that makes `ids` most probable, without the cache
    and at temperature 1. A rate or decay that is not None is kept.
    """
    rule, untempered = adaptation.dynamic, replace(adaptation, temperature=1.0)

    def best(candidates: Sequence[Adaptation]) -> Adaptation:
        # With too high a rate the parameters overflow, and the sum is NaN: it counts as -inf.
        sums = [
            np.nan_to_num(evaluator.read(candidate, ids, cache=0).model_KT.sum(), nan=-np.inf)
            for candidate in candidates
        ]
        return candidates[int(np.argmax(sums))]

    lr, decay = adaptation.dynamic_lr, adaptation.dynamic_decay
    rates = UPDATE_RULES[rule].rates if lr is None else (lr,)
    decays = UPDATE_RULES[rule].decays if decay is None else (decay,)
    tuned = best([replace(untempered, dynamic_lr=lr, dynamic_decay=decays[0]) for lr in rates])
    tuned = best([replace(tuned, dynamic_decay=decay) for decay in decays])
    return replace(tuned, temperature=adaptation.temperature)


def _tune_distribution(
    evaluator: AdaptiveEvaluator, adaptation: Adaptation, valid: Split
) -> Adaptation:
    """Return the adaptation with the temperature, flatness and share that are best on `valid`."""
    if adaptation.temperature is not None and not adaptation.cache_needs_tuning:
        return adaptation
    temperature, flatness = adaptation.temperature, adaptation.flatness
    temperatures = TEMPERATURES if temperature is None else (temperature,)
    flatnesses = FLATNESSES if flatness is None else (flatness,)
    log_probs = evaluator.read(adaptation, valid.ids, temperatures, flatnesses)
    best = int(np.argmax(log_probs.model_KT.sum(axis=1)))
    adaptation = replace(adaptation, temperature=temperatures[best])
    if not adaptation.cache:
        return adaptation
    candidates = []
    for index, flatness in enumerate(flatnesses):
        log_probs_2T = log_probs.with_cache(best, index)
        share = adaptation.share
        share = float(em_weights(log_probs_2T)[1]) if share is None else share
        total = interpolated(log_probs_2T, [1 - share, share]).sum()
        candidates.append((total, flatness, share))
    _, flatness, share = max(candidates)
    return replace(adaptation, flatness=flatness, share=share)
