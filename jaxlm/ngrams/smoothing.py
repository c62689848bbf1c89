"""Smoothing: from counts of n-grams to the probabilities of a back-off model.

h is a context, w the next word, and h' is h without its first word. a(h w) is the count that a
smoothing works with: the number of occurrences of h w or, for Kneser-Ney below the top order, the
number of different words that occur before h w. a(h) = Σ_w a(h w).

A new smoothing is one function and one line in SMOOTHINGS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.ngrams.chunked import chunked
from jaxlm.ngrams.counts import Counts
from jaxlm.ngrams.tables import Allocate, Tables, in_memory

# KenLM's values for --discount_fallback.
FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Estimate:
    """The result of a smoothing.

    Attributes:
      tables: the back-off model.
      discounts: the discounts of each order, from order 1 on; empty for a smoothing without
        discounts.
      notes: sentences that a report should print.
      uniform_weight: the weight of the uniform distribution 1 / V in P(w) of order 1. The tables do
        not keep this weight, because every word is listed.
    """

    tables: Tables
    discounts: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    uniform_weight: float = 1.0


class SmoothingRule(NamedTuple):
    """The formulas of an interpolated smoothing for one order: see `_interpolated`.

    Attributes:
      numerator: numerator(counts) returns n(h w) from a(h w).
      extra: extra(totals, types) returns the number to add to a(h) in the denominator, from a(h)
        and the number of different words after h.
    """

    numerator: Callable[[np.ndarray], np.ndarray]
    extra: Callable[[np.ndarray, np.ndarray], np.ndarray]


def adjusted_counts(counts: Counts, order: int, allocate: Allocate = in_memory) -> np.ndarray:
    """Return Kneser-Ney's counts a(h w) of `order`, int [number of n-grams].

    a(h w) = c(h w)         at the top order, and where h w begins at the start of a line
             N₁₊(• h w)     else: the number of different words that occur before h w
    """
    own = counts.orders[order - 1]
    if order == len(counts.orders):
        return own.counts
    adjusted = allocate(f"adjusted-{order}", len(own), own.counts.dtype.type)
    suffixes = counts.orders[order].suffixes
    for chunk in chunked(len(suffixes), suffixes, adjusted):
        np.add.at(adjusted, suffixes[chunk], 1)
    for chunk in chunked(len(own), own.counts, adjusted):
        # An n-gram that occurs only at the beginning of the text has no word before it. It counts
        # as 1, so that it stays possible.
        np.maximum(adjusted[chunk], own.counts[chunk] > 0, out=adjusted[chunk])
        started = slice(max(chunk.start, own.at_line_start), chunk.stop)
        adjusted[started] = own.counts[started]
    return adjusted


def counts_of_counts(adjusted: np.ndarray, highest: int = 4) -> np.ndarray:
    """Return t_0 ... t_highest, int64: t_i is the number of n-grams with the count i.

    Example:
      >>> counts_of_counts(np.array([1, 1, 2, 7])).tolist()
      [0, 2, 1, 0, 0]
    """
    numbers = np.zeros(highest + 1, np.int64)
    for chunk in chunked(len(adjusted), adjusted):
        numbers += np.bincount(np.minimum(adjusted[chunk], highest + 1), minlength=highest + 2)[:-1]
    return numbers


def _interpolated(
    counts: Counts,
    allocate: Allocate,
    counts_of: Callable[[int], np.ndarray],
    rule_of: Callable[[int, np.ndarray], SmoothingRule],
) -> tuple[Tables, float]:
    """Interpolate every order with the next lower order, and order 1 with the uniform distribution.

    Returns the tables and backoff() of order 1, the weight of the uniform distribution.

        P(w | h) = n(h w) / d(h) + backoff(h) · P(w | h')
        d(h) = a(h) + extra(h)          backoff(h) = (d(h) - Σ_w n(h w)) / d(h)

    n(h w) = 0 for the n-grams in `counts.dropped`. So the tables list P(w | h) = backoff(h) ·
    P(w | h') for them, and give the same answers without them.

    Args:
      counts: the counts of the text.
      allocate: allocates the arrays.
      counts_of: counts_of(order) returns a(h w).
      rule_of: rule_of(order, a) returns the formulas of n and extra.
    """
    V, base = counts.vocab_size, counts.vocab_size + 1
    uniform, uniform_weight = 1 / (V - counts.outside), 1.0
    probabilities: list[np.ndarray] = []
    backoffs: list[np.ndarray] = []
    for order, own in enumerate(counts.orders, start=1):
        a = counts_of(order)
        rule = rule_of(order, a)
        contexts = len(counts.orders[order - 2]) if order > 1 else 1
        denominator, backoff = _context_sums(counts, order, a, rule, contexts, allocate)
        probability = allocate(f"probabilities-{order}", len(own), np.float64)
        arrays = [own.keys, own.suffixes, a, denominator, backoff, probability]
        for chunk in chunked(len(own), *arrays, *probabilities[-1:]):
            context = own.keys[chunk] // base if order > 1 else np.zeros(1, np.int64)
            below = probabilities[-1][own.suffixes[chunk]] if order > 1 else uniform
            ratio = _numerators(counts, order, a, rule, chunk) / denominator[context]
            probability[chunk] = ratio + backoff[context] * below
        if order == 1:
            probability[V] = 0
            uniform_weight = float(backoff[0])
        else:
            backoffs.append(backoff)
        probabilities.append(probability)
    keys = tuple(order.keys for order in counts.orders[1:])
    return Tables(V, keys, tuple(probabilities), tuple(backoffs)), uniform_weight


def _numerators(
    counts: Counts, order: int, a: np.ndarray, rule: SmoothingRule, chunk: slice
) -> np.ndarray:
    """Return n(h w) of some n-grams of `order`; 0 for the n-grams in `counts.dropped`.

    Args:
      counts: the counts of the text.
      order: the number of words.
      a: the counts a(h w) of all n-grams of the order.
      rule: the formulas of n and extra.
      chunk: which n-grams.
    """
    numerators = rule.numerator(a[chunk])
    return (
        np.where(counts.dropped[order - 1][chunk], 0, numerators) if counts.dropped else numerators
    )


def _context_sums(
    counts: Counts,
    order: int,
    a: np.ndarray,
    rule: SmoothingRule,
    contexts: int,
    allocate: Allocate,
) -> tuple[np.ndarray, np.ndarray]:
    """Return d(h) and backoff(h) of every context h of an order.

    Where no word follows h, d(h) = 1 and backoff(h) = 1.

    Args:
      counts: the counts of the text.
      order: the number of words of h w.
      a: the counts a(h w).
      rule: the formulas of n and extra.
      contexts: the number of contexts h.
      allocate: allocates the arrays.
    """
    own, base = counts.orders[order - 1], counts.vocab_size + 1
    total = allocate(f"denominators-{order}", contexts, np.float64)
    backoff = allocate(f"backoffs-{order - 1}", contexts, np.float64)
    types = allocate(f"types-{order}", contexts, np.int32)
    for chunk in chunked(len(own), own.keys, a, total, backoff, types):
        context = own.keys[chunk] // base if order > 1 else np.zeros(len(a[chunk]), np.int64)
        # Keys are sorted, so the contexts of a chunk are neighbours.
        first, last = int(context[0]), int(context[-1]) + 1
        total[first:last] += np.bincount(context - first, a[chunk])
        numerators = _numerators(counts, order, a, rule, chunk)
        backoff[first:last] += np.bincount(context - first, numerators)
        types[first:last] += np.bincount(context - first, a[chunk] > 0).astype(np.int32)
    for chunk in chunked(contexts, total, backoff, types):
        d = total[chunk] + rule.extra(total[chunk], types[chunk])
        numerators, is_followed = backoff[chunk], d > 0
        # Where no word follows h, the shorter context has the whole probability.
        backoff[chunk] = np.where(is_followed, (d - numerators) / np.where(is_followed, d, 1), 1.0)
        total[chunk] = np.where(is_followed, d, 1)
    return total, backoff


def _no_extra(totals: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Return zeros: the `extra` of a smoothing whose denominator is a(h)."""
    return np.zeros_like(totals)


def _kneser_ney(
    counts: Counts,
    allocate: Allocate,
    discounts_of: Callable[[np.ndarray], tuple[float, ...]],
    raw: Sequence[int] = (),
) -> Estimate:
    """Estimate interpolated Kneser-Ney.

    Args:
      counts: the counts of the text.
      allocate: allocates the arrays.
      discounts_of: discounts_of(t) returns the discounts of the counts 1, 2, ... from the counts
        of counts t (`counts_of_counts`). The last discount applies to all larger counts too.
      raw: the id of an n-gram of each order, from order 1 on, that t counts by its occurrences.
    """
    discounts: list[tuple[float, ...]] = []
    replaced: dict[int, tuple[float, ...]] = {}

    def rule_of(order: int, a: np.ndarray) -> SmoothingRule:
        # The start of a line, the last entry of order 1, is never predicted.
        last = counts.vocab_size if order == 1 else len(a)
        t = counts_of_counts(a[:last])
        for ngram in raw[order - 1 : order]:
            occurrences = counts.orders[order - 1].counts[ngram : ngram + 1]
            t += counts_of_counts(occurrences) - counts_of_counts(a[ngram : ngram + 1])
        values = discounts_of(t)
        size = len(values)
        if not all(0 <= value <= count for count, value in enumerate(values, start=1)):
            values = replaced[order] = FALLBACK[:size]
        discounts.append(values)
        discount_of = np.array([0.0, *values])
        return SmoothingRule(lambda a: a - discount_of[np.minimum(a, size)], _no_extra)

    tables, uniform_weight = _interpolated(
        counts, allocate, lambda order: adjusted_counts(counts, order, allocate), rule_of
    )
    return Estimate(tables, tuple(discounts), _fallback_notes(replaced), uniform_weight)


def _fallback_notes(replaced: dict[int, tuple[float, ...]]) -> tuple[str, ...]:
    """Return the note on the orders whose discounts FALLBACK `replaced`, if there are any."""
    if not replaced:
        return ()
    orders = f"order{'s' if len(replaced) > 1 else ''} {', '.join(map(str, replaced))}"
    values = " ".join(f"{value:g}" for value in next(iter(replaced.values())))
    return (
        f"{orders}: too few n-grams with low counts to estimate the discounts, so they are set to "
        f"{values}, as by KenLM's --discount_fallback",
    )


def modified_kneser_ney(
    counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0, raw: Sequence[int] = ()
) -> Estimate:
    """Estimate interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3.4), as KenLM does.

        n(h w) = a - D(a)      D_i = i - (i + 1) Y t_{i+1} / t_i      Y = t_1 / (t_1 + 2 t_2)

    There is a D_i for the counts i = 1, 2, and 3 or more. t_i is the number of n-grams of the order
    with a = i (`counts_of_counts`). If a D_i is undefined or outside of [0, i], the order uses 0.5,
    1, 1.5, and a note says so.

    KenLM's lmplz differs in the t of every order below the top: it counts the last n-gram of the
    order by its occurrences, not by a. Where few n-grams have low counts, a discount changes in its
    second decimal, and log10 P(w | h) by some 4e-3. `raw` reproduces it
    (`jaxlm.ngrams.lmplz.last_ngrams`). The V of lmplz always counts `<unk>`; here V counts `<unk>`
    if the vocabulary has it.

    Args:
      counts: the counts of the text.
      allocate: allocates the arrays.
      add_k: ignored; every smoothing has this argument.
      raw: the id of an n-gram of each order, from order 1 on, that t counts by its occurrences.

    Example:
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> estimate = modified_kneser_ney(count_ngrams(text, 2, vocab_size=3))
      >>> estimate.discounts
      ((0.5, 1.0, 1.5), (0.5, 1.0, 1.5))
      >>> probability_V, _ = estimate.tables.distribution([0])  # P(w | 0)
      >>> round(float(probability_V.sum()), 6)
      1.0

    Source: Chen & Goodman, "An empirical study of smoothing techniques for language modeling",
    1998; Heafield et al., "Scalable modified Kneser-Ney language model estimation", 2013.
    """

    def discounts(t: np.ndarray) -> tuple[float, ...]:
        if not t[1:4].all():
            return (-1.0, -1.0, -1.0)
        y = t[1] / (t[1] + 2 * t[2])
        return tuple(float(i - (i + 1) * y * t[i + 1] / t[i]) for i in (1, 2, 3))

    return _kneser_ney(counts, allocate, discounts, raw)


def kneser_ney(counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0) -> Estimate:
    """Estimate interpolated Kneser-Ney with one discount per order.

        n(h w) = a - D      D = t_1 / (t_1 + 2 t_2)      t_i: n-grams of the order with a = i

    Source: Kneser & Ney 1995; Ney, Essen & Kneser 1994.
    """

    def discounts(t: np.ndarray) -> tuple[float, ...]:
        return (float(t[1] / (t[1] + 2 * t[2])),) if t[1] and t[2] else (-1.0,)

    return _kneser_ney(counts, allocate, discounts)


def witten_bell(counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0) -> Estimate:
    """Estimate interpolated Witten-Bell.

        P(w | h) = (c(h w) + N₁₊(h •) P(w | h')) / (c(h) + N₁₊(h •))

    N₁₊(h •) is the number of different words that occur after h.

    Source: Witten & Bell 1991, method C; Chen & Goodman 1998, section 2.6.
    """
    rule = SmoothingRule(lambda a: a.astype(np.float64), lambda totals, types: types)
    raw = [order.counts for order in counts.orders]
    tables, uniform_weight = _interpolated(
        counts, allocate, lambda order: raw[order - 1], lambda *_: rule
    )
    return Estimate(tables, uniform_weight=uniform_weight)


def add_k(counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0) -> Estimate:
    """Estimate add-k smoothing (Laplace for k = 1, else Lidstone).

        P(w | h) = (c(h w) + k) / (c(h) + k V)      h: the whole context

    A whole context has n - 1 words, or fewer if it reaches back to the start of a line. Shorter
    contexts are not used: after a context that never occurred, every word has the probability 1/V.
    """
    V, base, k = counts.vocab_size, counts.vocab_size + 1, add_k
    top = len(counts.orders)
    uniform_weight = 1.0
    probabilities, backoffs = [], []
    for order, own in enumerate(counts.orders, start=1):
        contexts = len(counts.orders[order - 2]) if order > 1 else 1
        # N-grams from this id on have a whole context before their last word.
        first_whole = 0 if order == top else own.at_line_start
        probability = allocate(f"probabilities-{order}", len(own), np.float64)
        backoff = allocate(f"backoffs-{order - 1}", contexts, np.float64)
        for chunk in chunked(contexts, backoff):
            backoff[chunk] = 1
        for chunk in chunked(len(own), own.keys, own.counts, backoff):
            chunk = slice(max(chunk.start, first_whole), chunk.stop)
            if order > 1 and chunk.start < chunk.stop:
                context = own.keys[chunk] // base
                first, last = int(context[0]), int(context[-1]) + 1
                # Until the last step, `backoff` holds 1 + c(h).
                backoff[first:last] += np.bincount(context - first, own.counts[chunk])
        total = own.counts[:V].sum() if order == 1 else 0
        for chunk in chunked(len(own), own.keys, own.counts, backoff, probability):
            probability[chunk] = 1 / V
            chunk = slice(max(chunk.start, first_whole), chunk.stop)
            if chunk.start < chunk.stop:
                c_h = backoff[own.keys[chunk] // base] - 1 if order > 1 else total
                probability[chunk] = (own.counts[chunk] + k) / (c_h + k * V)
        if order == 1:
            probability[V] = 0
            if top == 1 and total > 0:
                uniform_weight = float(k * V / (total + k * V))
        else:
            for chunk in chunked(contexts, backoff):
                c_h = backoff[chunk] - 1
                backoff[chunk] = np.where(c_h > 0, k * V / np.where(c_h > 0, c_h + k * V, 1), 1.0)
            backoffs.append(backoff)
        probabilities.append(probability)
    keys = tuple(order.keys for order in counts.orders[1:])
    tables = Tables(V, keys, tuple(probabilities), tuple(backoffs))
    return Estimate(tables, uniform_weight=uniform_weight)


def maximum_likelihood(
    counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0
) -> Estimate:
    """Estimate relative frequencies: P(w | h) = c(h w) / c(h), and 0 for a word never seen after h.

    This is the limit of add-k for k -> 0: after a context that never occurred, every word has the
    probability 1/V. A text with an n-gram of probability 0 has an infinite perplexity.
    """
    return _add_k(counts, allocate, 0.0)


_add_k = add_k
Smoothing = Callable[[Counts, Allocate, float], Estimate]
SMOOTHINGS: dict[str, Smoothing] = {
    "modified-kneser-ney": modified_kneser_ney,
    "kneser-ney": kneser_ney,
    "witten-bell": witten_bell,
    "add-k": add_k,
    "maximum-likelihood": maximum_likelihood,
}
KEEPING_SHARES = ("modified-kneser-ney", "kneser-ney", "witten-bell")
"""The smoothings that give the share of n-grams in `Counts.dropped` to the shorter context."""
