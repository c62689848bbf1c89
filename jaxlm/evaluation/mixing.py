"""Mix models: interpolate their probabilities linearly, and add a cache of recent tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.errors import SettingError, UserError, check_at_least
from jaxlm.evaluation.adaptation import Adaptation, AdaptiveEvaluator, can_adapt
from jaxlm.evaluation.interpolation import em_weights, interpolated
from jaxlm.evaluation.perplexity import (
    Report,
    check_where,
    open_split,
    report,
    score_split,
    scored_ids,
)
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.run import Run


@dataclass(frozen=True)
class Mixed:
    """Result of `mixture`: the reports of the components and of their mixture.

    Attributes:
      alone: report of each component.
      together: report of the mixture.
      weights: weight of each component, in the order of `alone`; their sum is 1.
      chosen: where the weights come from: a phrase for the report.
    """

    alone: tuple[Report, ...]
    together: Report
    weights: tuple[float, ...]
    chosen: str

    @property
    def gain(self) -> float:
        """Bits per token that the mixture saves over its best component."""
        best = min(item.nats_per_token for item in self.alone)
        return float((best - self.together.nats_per_token) / np.log(2))

    def __str__(self) -> str:
        best = min(self.alone, key=lambda item: item.nats_per_token)
        weights = ", ".join(
            f"{weight:.4f} {item.run}"
            for weight, item in zip(self.weights, self.alone, strict=True)
        )
        return (
            f"Mixture: {weights}; {self.chosen}. It saves {self.gain:z.4f} bits per token over "
            f"{best.run} alone."
        )


def mixture(
    runs: Sequence[Run],
    *,
    weights: Sequence[float] | None = None,
    unigram_cache: int | None = None,
    adaptation: Adaptation | None = None,
    corpus: str | Path | None = None,
    split: str | None = None,
    text: str | Path | None = None,
) -> Mixed:
    """Return the perplexity of runs whose probabilities are interpolated, token by token.

        P(w | h) = Σ_m λ_m P_m(w | h)          Σ_m λ_m = 1

    Example:
      >>> import jaxlm
      >>> from rich.console import Console
      >>> text, quiet = jaxlm.read_corpus("toy"), Console(quiet=True)
      >>> size = len(text.vocabulary)
      >>> unigram = jaxlm.fit(jaxlm.NGram(vocab_size=size, order=1), text, console=quiet)
      >>> trigram = jaxlm.fit(jaxlm.NGram(vocab_size=size, order=3), text, console=quiet)
      >>> mixed = jaxlm.mixture([unigram, trigram], weights=[0.1, 0.9], split="train")
      >>> [round(float(report), 2) for report in (*mixed.alone, mixed.together)]
      [7.16, 1.79, 1.93]

    Args:
      runs: the components. All have the same vocabulary and predict the same tokens.
      weights: λ, a weight for each component; None for the weights that are best on the validation
        split, found by expectation-maximisation.
      unigram_cache: half-life, in tokens, of a cache that becomes one more component; None for no
        cache. See `unigram_cache_log_probs`.
      adaptation: how to adapt the neural runs that read one stream. Each run is tuned on its own
        (see `adapted`). Other runs are not adapted.
      corpus: name or path of the corpus; None for the corpus that each run was trained on.
      split: "train", "valid" or "test"; None for the first of test, valid and train that exists.
      text: a text file to evaluate as a whole, instead of a corpus.
    Raises:
      SettingError: for weights that do not fit the components, a half-life below 1, and an argument
        that has no effect, such as a split beside a text.
      UserError: for different vocabularies, runs that predict different tokens, and, without
        weights, a corpus without a validation split.

    Source: Jelinek & Mercer, "Interpolated estimation of Markov source parameters from sparse
    data", 1980; Bengio et al. 2003, section 4, mixes an NPLM with a trigram.
    """
    count = len(runs) + (unigram_cache is not None)
    check_components(count, unigram_cache)
    check_vocabularies(runs)
    if weights is not None:
        check_weights(weights, count)
    # Weights and adaptations are tuned on the corpus, even if a text is evaluated.
    tuned = weights is None or adaptation is not None
    check_where(None if tuned else corpus, split, text)
    if adaptation is not None and not any(map(can_adapt, runs)):
        adaptation.check_run(runs[0])
    # The validation split is read first, for tuning. Only then is the evaluated text read.
    components = [_Component(run, adaptation, corpus) for run in runs]
    weights_M, chosen = (
        (np.array(weights), "weights given")
        if weights is not None
        else _weights_on_valid(components, unigram_cache, corpus)
    )
    corpus = corpus if text is None else None
    splits = [open_split(run, corpus, split, text) for run in runs]
    measured = _measure(components, unigram_cache, splits)
    # Not strict: the unigram cache has a row of log-probabilities, but no split.
    per_run = zip(components, measured.splits, measured.log_probs_MT, strict=False)
    alone = [component.report(split, log_probs_T) for component, split, log_probs_T in per_run]
    together = TokenScores(interpolated(measured.log_probs_MT, weights_M))
    mixed = report(runs[0], measured.splits[0], together)
    mixed = replace(mixed, run="mixture", protocol=_protocol_of(alone))
    if unigram_cache is not None:
        cached = report(runs[0], measured.splits[0], TokenScores(measured.log_probs_MT[-1]))
        protocol = f"Cache: empty at first; a token's weight halves every {unigram_cache:,} tokens."
        alone.append(replace(cached, run="unigram cache", protocol=protocol))
    return Mixed(tuple(alone), mixed, tuple(map(float, weights_M)), chosen)


def _protocol_of(alone: Sequence[Report]) -> str:
    """Return the protocol of a mixture; it names each component if their protocols differ."""
    protocols = dict.fromkeys(item.protocol for item in alone)
    if len(protocols) == 1:
        return alone[0].protocol
    of_runs = " ".join(f"{item.run}: {item.protocol}" for item in alone)
    return f"The components read the same tokens in different ways. {of_runs}"


class _Component:
    """A run of a mixture, adapted if the mixture has an adaptation and the run can adapt."""

    def __init__(self, run: Run, adaptation: Adaptation | None, corpus: str | Path | None) -> None:
        self.run, self.evaluator, self.adaptation = run, None, None
        if adaptation is not None and can_adapt(run):
            self.evaluator = AdaptiveEvaluator(run, corpus)
            self.adaptation = self.evaluator.tune(adaptation)

    def log_probs(self, split: Split) -> np.ndarray:
        """Return the log-probability of every scored token, [T]."""
        if self.evaluator is None or self.adaptation is None:
            return score_split(self.run, split).log_prob
        return self.evaluator.log_probs(self.adaptation, split)

    def report(self, split: Split, log_probs_T: np.ndarray) -> Report:
        """Return the report of this component alone."""
        if self.evaluator is None or self.adaptation is None:
            return report(self.run, split, TokenScores(log_probs_T))
        return self.evaluator.report(self.adaptation, split, log_probs_T)


@dataclass(frozen=True)
class _Measured:
    """The split as each run encodes it, and the log-probabilities of its tokens.

    Attributes:
      splits: a split for each run. The ids differ if the vocabularies have different orders.
      log_probs_MT: float64, M components and T scored tokens. The last row is of the unigram cache,
        if there is a unigram cache.
    """

    splits: list[Split]
    log_probs_MT: np.ndarray


def _measure(
    components: Sequence[_Component],
    unigram_cache: int | None,
    splits: list[Split],
    advice: str = "score each line on its own in all runs (`lines`)",
) -> _Measured:
    """Score the same tokens with every component.

    Args:
      components: the runs.
      unigram_cache: half-life of the cache in tokens, or None for no cache.
      splits: the split for each component, encoded by the tokenizer of its run.
      advice: what to do if the runs do not predict the same tokens.
    Raises:
      UserError: if the runs do not predict the same tokens.
    """
    runs = [component.run for component in components]
    tokens = [
        [token for _, token in scored_ids(run, split)]
        for run, split in zip(runs, splits, strict=True)
    ]
    for run, run_tokens in zip(runs[1:], tokens[1:], strict=True):
        if run_tokens != tokens[0]:
            raise UserError(
                f"{runs[0].name} and {run.name} do not predict the same tokens of "
                f"{splits[0].name} ({len(tokens[0]):,} and {len(run_tokens):,} tokens): {advice}"
            )
    log_probs = [
        component.log_probs(split) for component, split in zip(components, splits, strict=True)
    ]
    if unigram_cache is not None:
        ids = np.array([id_ for id_, _ in scored_ids(runs[0], splits[0])])
        log_probs.append(unigram_cache_log_probs(ids, unigram_cache, len(runs[0].vocabulary)))
    return _Measured(splits, np.array(log_probs, np.float64))


def _weights_on_valid(
    components: Sequence[_Component],
    unigram_cache: int | None,
    corpus: str | Path | None,
    *advice: str,
) -> tuple[np.ndarray, str]:
    """Return the best weights on the validation split, [M], and the phrase for `Mixed.chosen`."""
    try:
        splits = [open_split(component.run, corpus, "valid") for component in components]
    except UserError as error:
        raise UserError(
            f"weights are tuned on the validation split, which cannot be read ({error}): set "
            f"`weights`"
        ) from None
    valid = _measure(components, unigram_cache, splits, *advice)
    tokens = valid.log_probs_MT.shape[1]
    name = valid.splits[0].name
    return em_weights(valid.log_probs_MT), f"weights by EM on {name} ({tokens:,} tokens)"


def weights_on_valid(runs: Sequence[Run], corpus: str | Path | None = None) -> list[float]:
    """Return the weights of runs that are best on the validation split, by EM.

    Args:
      runs: the runs; all have the same tokens.
      corpus: name or path of the corpus; None for the corpus that each run was trained on.
    Raises:
      UserError: if the validation split cannot be read, or the runs predict different tokens.
    """
    components = [_Component(run, None, corpus) for run in runs]
    return list(map(float, _weights_on_valid(components, None, corpus, "set `weights`")[0]))


def unigram_cache_log_probs(ids: np.ndarray, half_life: int, vocab_size: int) -> np.ndarray:
    """Return the log-probability of each token under an exponentially decaying unigram cache.

        P(w) = Σ_{j<t} λ^{t-j} [w_j = w] / Σ_{j<t} λ^{t-j}          λ = 2^(-1 / half_life)

    P(w) is the relative frequency of w among the tokens before position t, and recent tokens weigh
    more. A token that has not occurred before has probability 0. The first token of the text has
    probability 1 / V.

    Args:
      ids: token ids of the text, integers [T].
      half_life: number of tokens after which the weight of an occurrence has halved.
      vocab_size: number V of tokens in the vocabulary.
    Returns:
      log P(w_t), float64 [T].

    Source: Kuhn & De Mori, "A cache-based natural language model for speech recognition", 1990;
    Clarkson & Robinson, "Language model adaptation using mixtures and an exponentially decaying
    cache", 1997. Mikolov et al. 2011 mix a cache with Kneser-Ney.
    """
    decay = -np.log(2) / half_life
    positions = np.arange(len(ids))
    # In this order all occurrences of a token are neighbours, from the first to the last.
    by_token = np.argsort(ids, kind="stable")
    sorted_positions, tokens = positions[by_token], ids[by_token]
    is_first = np.append(True, tokens[1:] != tokens[:-1])
    # One running log-sum of λ^-j serves all tokens. An offset that grows by `step` at each new
    # token makes the sums of the tokens before it negligible.
    step = len(ids) * -decay + 800
    sums = np.logaddexp.accumulate(np.cumsum(is_first) * step - sorted_positions * decay)
    before = np.append(0.0, sums[:-1]) - np.cumsum(is_first) * step + sorted_positions * decay
    log_probs = np.empty(len(ids))
    log_probs[by_token] = np.where(is_first, -np.inf, before)
    log_probs[1:] -= decay + np.log(np.expm1(positions[1:] * decay) / np.expm1(decay))
    log_probs[:1] = -np.log(vocab_size)
    return log_probs


def check_components(count: int, unigram_cache: int | None) -> None:
    """Raise UserError for fewer than two components, SettingError for a half-life below 1."""
    if unigram_cache is not None:
        check_at_least("unigram_cache", unigram_cache, 1)
    if count < 2:
        raise UserError(
            "a mixture needs two components: give another run, or add `unigram_cache` 80"
        )


def check_weights(weights: Sequence[float], count: int) -> None:
    """Raise SettingError unless there are `count` weights, each at least 0, with the sum 1."""
    shown = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise SettingError("weights", shown, f"{len(weights)} weights for {count} components")
    if not all(weight >= 0 for weight in weights) or abs(sum(weights) - 1) > 1e-6:
        raise SettingError("weights", shown, "each must be at least 0, and their sum must be 1")


def check_vocabularies(runs: Sequence[Run]) -> None:
    """Raise UserError if two runs have different tokens; their order may differ.

    The message names the first token that only one of the two runs has.
    """
    first = runs[0]
    for run in runs[1:]:
        first_tokens, run_tokens = first.vocabulary, run.vocabulary
        token = next((token for token in first_tokens.tokens if token not in run_tokens), None)
        has, lacks = first, run
        if token is None:
            token = next((token for token in run_tokens.tokens if token not in first_tokens), None)
            has, lacks = run, first
        if token is not None:
            token = has.tokenizer.token_text(has.vocabulary.tokens.index(token))
            raise UserError(
                f"{first.name} and {run.name} have different vocabularies "
                f"({len(first_tokens):,} and {len(run_tokens):,} tokens): {token!r} is in "
                f"{has.name} and not in {lacks.name}. Train both runs on one corpus, with the same "
                f"`tokens`, `min_count` and `vocab_size`"
            )
        if first.tokenizer.name != run.tokenizer.name:
            raise UserError(
                f"{first.name} reads {first.tokenizer.name}, {run.name} reads "
                f"{run.tokenizer.name}: mix runs that read the same kind of tokens"
            )
