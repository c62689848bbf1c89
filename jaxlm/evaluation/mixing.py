"""Models together: the linear interpolation of their probabilities, and a cache of recent words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxlm.data.encoding import Split
from jaxlm.errors import UserError
from jaxlm.evaluation.adaptation import Adaptation, Adapter
from jaxlm.evaluation.adaptation.settings import adaptable
from jaxlm.evaluation.interpolation import em_weights, interpolated
from jaxlm.evaluation.perplexity import Report, open_split, report, score, scored_ids
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.run import Run


@dataclass(frozen=True)
class Mixed:
    """What each component scored alone, what they score together, and with which weights.

    weights sum to 1, in the order of `alone`; `chosen` says how they came about.
    """

    alone: tuple[Report, ...]
    together: Report
    weights: tuple[float, ...]
    chosen: str

    @property
    def gain(self) -> float:
        """Bits a token that the mixture saves over its best component."""
        best = min(item.nats_per_token for item in self.alone)
        return float((best - self.together.nats_per_token) / np.log(2))

    def __str__(self) -> str:
        best = min(self.alone, key=lambda item: item.nats_per_token)
        shares = ", ".join(
            f"{weight:.4f} {item.run}"
            for weight, item in zip(self.weights, self.alone, strict=True)
        )
        return (
            f"Mixture: {shares}; {self.chosen}. It saves {self.gain:.4f} bits a token over "
            f"{best.run} alone."
        )


def mixture(
    runs: Sequence[Run],
    *,
    weights: Sequence[float] | None = None,
    unigram_cache: int | None = None,
    adaptation: Adaptation | None = None,
    corpus: str | None = None,
    split: str | None = None,
    text: str | Path | None = None,
) -> Mixed:
    """The perplexity of runs whose probabilities are interpolated, token by token.

        P(w | h) = Σ_m λ_m P_m(w | h)          Σ_m λ_m = 1

        print(jaxlm.mixture([jaxlm.load("runs/ngram-ptb"), jaxlm.load("runs/lstm-ptb")]))

    weights: λ, or None for the best on the validation split (by EM). unigram_cache: adds one more
    component, each token's share among those before it, whose weight halves every so many.
    adaptation: of every run that can be adapted, each with what suits it (see `adapted`); a count
    stays as it is. corpus, split, text: as for `perplexity`.

    Raises UserError for vocabularies that differ, runs that do not predict the same tokens, weights
    that do not fit, and, without weights, a corpus without validation split.

    Source: Jelinek & Mercer, "Interpolated estimation of Markov source parameters from sparse
    data", 1980; Bengio et al. 2003, section 4, mixes an NPLM with a trigram.
    """
    components = len(runs) + (unigram_cache is not None)
    check_components(components, unigram_cache)
    check_vocabularies(runs)
    if weights is not None:
        check_weights(weights, components)
    # Before the text itself is looked at: validation chooses.
    parts = [_Component(run, adaptation, corpus) for run in runs]
    shares, chosen = (
        (np.array(weights), "weights given")
        if weights is not None
        else _weights_on_valid(parts, unigram_cache, corpus)
    )
    measured = _log_probs(parts, unigram_cache, lambda run: open_split(run, corpus, split, text))
    counted = zip(parts, measured.splits, measured.log_probs_MT, strict=False)
    alone = [part.report(split, log_probs) for part, split, log_probs in counted]
    together = TokenScores(interpolated(measured.log_probs_MT, shares))
    mixed = report(runs[0], measured.splits[0], together)
    if unigram_cache is not None:
        cached = report(runs[0], measured.splits[0], TokenScores(measured.log_probs_MT[-1]))
        protocol = f"Cache: empty at first; a token's weight halves every {unigram_cache:,} tokens."
        alone.append(replace(cached, run="unigram cache", protocol=protocol))
    return Mixed(tuple(alone), replace(mixed, run="mixture"), tuple(map(float, shares)), chosen)


class _Component:
    """A run, which adapts if it can and is to."""

    def __init__(self, run: Run, adaptation: Adaptation | None, corpus: str | None) -> None:
        self.run, self.adapter, self.adaptation = run, None, None
        if adaptation is not None and adaptable(run):
            self.adapter = Adapter(run, corpus)
            self.adaptation = self.adapter.complete(adaptation)

    def log_probs(self, split: Split) -> np.ndarray:
        """Of every token that counts, [T]."""
        if self.adapter is None or self.adaptation is None:
            return score(self.run, split).log_prob
        return self.adapter.log_probs(self.adaptation, split)

    def report(self, split: Split, log_probs: np.ndarray) -> Report:
        """What it scored alone."""
        if self.adapter is None or self.adaptation is None:
            return report(self.run, split, TokenScores(log_probs))
        return self.adapter.report(self.adaptation, split, log_probs)


@dataclass(frozen=True)
class _Measured:
    splits: list[Split]
    log_probs_MT: np.ndarray


def _log_probs(
    parts: Sequence[_Component], unigram_cache: int | None, open_for: Callable[[Run], Split]
) -> _Measured:
    """Log-probabilities of the same tokens by every component, float64 [M, T]."""
    runs = [part.run for part in parts]
    splits = [open_for(run) for run in runs]
    tokens = [
        [token for _, token in scored_ids(run, part)]
        for run, part in zip(runs, splits, strict=True)
    ]
    for run, other in zip(runs[1:], tokens[1:], strict=True):
        if other != tokens[0]:
            raise UserError(
                f"{runs[0].name} and {run.name} do not predict the same tokens of "
                f"{splits[0].name} ({len(tokens[0]):,} and {len(other):,} of them): mix runs that "
                f"were trained on rows, or runs that were trained on streams"
            )
    found = [part.log_probs(split) for part, split in zip(parts, splits, strict=True)]
    if unigram_cache is not None:
        ids = np.array([id_ for id_, _ in scored_ids(runs[0], splits[0])])
        found.append(unigram_cache_log_probs(ids, unigram_cache, len(runs[0].vocabulary)))
    return _Measured(splits, np.array(found, np.float64))


def _weights_on_valid(
    parts: Sequence[_Component], unigram_cache: int | None, corpus: str | None
) -> tuple[np.ndarray, str]:
    try:
        valid = _log_probs(parts, unigram_cache, lambda run: open_split(run, corpus, "valid"))
    except UserError as error:
        raise UserError(
            f"weights are chosen on the validation split, which cannot be had ({error}): give them "
            f"with --weights"
        ) from None
    tokens = valid.log_probs_MT.shape[1]
    name = valid.splits[0].name
    return em_weights(valid.log_probs_MT), f"weights by EM on {name} ({tokens:,} tokens)"


def unigram_cache_log_probs(ids: np.ndarray, half_life: int, vocab_size: int) -> np.ndarray:
    """Log of each token's share among those before it, the recent ones weighing more.

        P(w) = Σ_{j<t} λ^{t-j} [w_j = w] / Σ_{j<t} λ^{t-j}          λ = 2^(-1 / half_life)

    -inf for a token not met before. The first of all, which has none before it, gets 1 / V.

    Source: Kuhn & De Mori, "A cache-based natural language model for speech recognition", 1990;
    Clarkson & Robinson, "Language model adaptation using mixtures and an exponentially decaying
    cache", 1997. Mikolov et al. 2011 mix a cache with Kneser-Ney.
    """
    decay = -np.log(2) / half_life
    positions = np.arange(len(ids))
    # Occurrences of one token lie side by side in this order, from first to last.
    by_token = np.argsort(ids, kind="stable")
    places, tokens = positions[by_token], ids[by_token]
    is_first = np.append(True, tokens[1:] != tokens[:-1])
    # Sums of λ^-j are taken over all tokens at once, in logs; each token starts so much higher than
    # the last one ended that nothing of that is left in its sum.
    step = len(ids) * -decay + 800
    sums = np.logaddexp.accumulate(np.cumsum(is_first) * step - places * decay)
    before = np.append(0.0, sums[:-1]) - np.cumsum(is_first) * step + places * decay
    log_probs = np.empty(len(ids))
    log_probs[by_token] = np.where(is_first, -np.inf, before)
    log_probs[1:] -= decay + np.log(np.expm1(positions[1:] * decay) / np.expm1(decay))
    log_probs[:1] = -np.log(vocab_size)
    return log_probs


def check_components(components: int, unigram_cache: int | None) -> None:
    """Raises UserError if there is nothing to mix, or a cache of no words."""
    if unigram_cache is not None and unigram_cache < 1:
        raise UserError(f"--unigram-cache {unigram_cache}: must be at least 1")
    if components < 2:
        raise UserError("--mix needs two components: name another run, or add --unigram-cache 80")


def check_weights(weights: Sequence[float], components: int) -> None:
    """Raises UserError for weights that are not one a component, 0 or more, and 1 in all."""
    shown = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != components:
        raise UserError(f"--weights {shown}: {len(weights)} weights for {components} components")
    if not all(weight >= 0 for weight in weights) or abs(sum(weights) - 1) > 1e-6:
        raise UserError(f"--weights {shown}: must be 0 or more each, and 1 in all")


def check_vocabularies(runs: Sequence[Run]) -> None:
    """Raises UserError if two runs know different tokens; it names the first that only one knows.
    Their order may differ.
    """
    first = runs[0]
    for run in runs[1:]:
        ours, theirs = first.vocabulary, run.vocabulary
        only = next((token for token in ours.tokens if token not in theirs), None)
        has, lacks = first, run
        if only is None:
            only = next((token for token in theirs.tokens if token not in ours), None)
            has, lacks = run, first
        if only is not None:
            raise UserError(
                f"{first.name} and {run.name} have different vocabularies ({len(ours):,} and "
                f"{len(theirs):,} tokens): {only!r} is in {has.name} and not in {lacks.name}. "
                f"Only runs over one vocabulary can be mixed: train both on one corpus, with the "
                f"same --tokens, --min-count and --vocab-size"
            )
        if first.tokenizer.name != run.tokenizer.name:
            raise UserError(
                f"{first.name} reads {first.tokenizer.name}, {run.name} {run.tokenizer.name}: only "
                f"runs that read the same tokens can be mixed"
            )
