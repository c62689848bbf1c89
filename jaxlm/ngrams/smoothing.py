"""Counts to probabilities. A new smoothing is one function and one line in SMOOTHINGS.

a(h w) is the count that a smoothing works with: how often h w occurs, or for Kneser-Ney below the
top order, how many different words occur before it. a(h) = Σ_w a(h w).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.ngrams.chunked import chunked
from jaxlm.ngrams.counts import Counts, OrderCounts
from jaxlm.ngrams.tables import Allocate, Tables, in_memory

# KenLM's values for --discount_fallback.
FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Estimate:
    """The tables, the discounts of each order (none for smoothings without), and what a reader
    should know.
    """

    tables: Tables
    discounts: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()


class Numerators(NamedTuple):
    """What a smoothing makes of the counts of one order.

    of(ids, counts): the part of each count that h w keeps; extra(totals, types): what is added to
    a(h) in the denominator, from a(h) and the number of different words after h.
    """

    of: Callable[[slice, np.ndarray], np.ndarray]
    extra: Callable[[np.ndarray, np.ndarray], np.ndarray]


def adjusted_counts(counts: Counts, order: int, allocate: Allocate = in_memory) -> np.ndarray:
    """Kneser-Ney's counts a(·) of `order`: below the top, N₁₊(• h w), the number of different words
    that occur before h w; at a line's start, which has no word before it, and at the top order, how
    often h w occurs.
    """
    own = counts.orders[order - 1]
    if order == len(counts.orders):
        return own.counts
    adjusted = allocate(f"adjusted-{order}", len(own), own.counts.dtype.type)
    suffixes = counts.orders[order].suffixes
    for piece in chunked(len(suffixes), suffixes, adjusted):
        np.add.at(adjusted, suffixes[piece], 1)
    for piece in chunked(len(own), own.counts, adjusted):
        # The text's own beginning is one more word before: what occurs there alone is not
        # impossible.
        np.maximum(adjusted[piece], own.counts[piece] > 0, out=adjusted[piece])
        started = slice(max(piece.start, own.at_line_start), piece.stop)
        adjusted[started] = own.counts[started]
    return adjusted


def counts_of_counts(adjusted: np.ndarray, highest: int = 4) -> np.ndarray:
    """t_0 ... t_highest: how many n-grams have a count of 0, 1, ..."""
    found = np.zeros(highest + 1, np.int64)
    for piece in chunked(len(adjusted), adjusted):
        found += np.bincount(np.minimum(adjusted[piece], highest + 1), minlength=highest + 2)[:-1]
    return found


def _interpolated(
    counts: Counts,
    allocate: Allocate,
    counted: Callable[[int], np.ndarray],
    numerators: Callable[[int, np.ndarray], Numerators],
) -> Tables:
    """Every order interpolated with the one below, order 1 with the uniform distribution.

    P(w | h) = n(h w) / d(h) + backoff(h) · P(w | h')
    d(h) = a(h) + extra(h)          backoff(h) = (d(h) - Σ_w n(h w)) / d(h)
    """
    V, base = counts.vocab_size, counts.vocab_size + 1
    probabilities: list[np.ndarray] = []
    backoffs: list[np.ndarray] = []
    for order, own in enumerate(counts.orders, start=1):
        a = counted(order)
        rule = numerators(order, a)
        contexts = len(counts.orders[order - 2]) if order > 1 else 1
        denominator, backoff = _context_sums(own, order, a, rule, contexts, base, allocate)
        probability = allocate(f"probabilities-{order}", len(own), np.float64)
        arrays = [own.keys, own.suffixes, a, denominator, backoff, probability]
        for piece in chunked(len(own), *arrays, *probabilities[-1:]):
            context = own.keys[piece] // base if order > 1 else np.zeros(1, np.int64)
            below = probabilities[-1][own.suffixes[piece]] if order > 1 else 1 / V
            kept = rule.of(piece, a[piece]) / denominator[context]
            probability[piece] = kept + backoff[context] * below
        if order == 1:
            probability[V] = 0
        else:
            backoffs.append(backoff)
        probabilities.append(probability)
    keys = tuple(order.keys for order in counts.orders[1:])
    return Tables(V, keys, tuple(probabilities), tuple(backoffs))


def _context_sums(
    own: OrderCounts,
    order: int,
    a: np.ndarray,
    rule: Numerators,
    contexts: int,
    base: int,
    allocate: Allocate,
) -> tuple[np.ndarray, np.ndarray]:
    """d(h) and backoff(h) of every context h; backoff is 1 where nothing follows h."""
    total = allocate(f"denominators-{order}", contexts, np.float64)
    backoff = allocate(f"backoffs-{order - 1}", contexts, np.float64)
    types = allocate(f"types-{order}", contexts, np.int32)
    for piece in chunked(len(own), own.keys, a, total, backoff, types):
        context = own.keys[piece] // base if order > 1 else np.zeros(len(a[piece]), np.int64)
        # Keys are sorted, so a piece's contexts are neighbours.
        first, last = int(context[0]), int(context[-1]) + 1
        total[first:last] += np.bincount(context - first, a[piece])
        backoff[first:last] += np.bincount(context - first, rule.of(piece, a[piece]))
        types[first:last] += np.bincount(context - first, a[piece] > 0).astype(np.int32)
    for piece in chunked(contexts, total, backoff, types):
        d = total[piece] + rule.extra(total[piece], types[piece])
        kept, followed = backoff[piece], d > 0
        # Where nothing follows, all is left to the shorter context.
        backoff[piece] = np.where(followed, (d - kept) / np.where(followed, d, 1), 1.0)
        total[piece] = np.where(followed, d, 1)
    return total, backoff


def _no_extra(totals: np.ndarray, types: np.ndarray) -> np.ndarray:
    return np.zeros_like(totals)


def _kneser_ney(
    counts: Counts, allocate: Allocate, discounts_of: Callable[[np.ndarray], tuple[float, ...]]
) -> Estimate:
    """Interpolated Kneser-Ney; `discounts_of` gives the discount of a count of 1, 2, ... from the
    counts of counts; the last serves for all larger ones.
    """
    discounts: list[tuple[float, ...]] = []
    taken: dict[int, tuple[float, ...]] = {}

    def rule(order: int, a: np.ndarray) -> Numerators:
        # The line's start is nothing that is ever predicted.
        last = counts.vocab_size if order == 1 else len(a)
        found = discounts_of(counts_of_counts(a[:last]))
        size = len(found)
        if not all(0 <= value <= count for count, value in enumerate(found, start=1)):
            found = taken[order] = FALLBACK[:size]
        discounts.append(found)
        table = np.array([0.0, *found])
        return Numerators(lambda _, a: a - table[np.minimum(a, size)], _no_extra)

    tables = _interpolated(
        counts, allocate, lambda order: _without_start(counts, order, allocate), rule
    )
    return Estimate(tables, tuple(discounts), _fallback_notes(taken))


def _fallback_notes(taken: dict[int, tuple[float, ...]]) -> tuple[str, ...]:
    """What is said of the orders whose discounts were `taken` from FALLBACK."""
    if not taken:
        return ()
    orders = f"order{'s' if len(taken) > 1 else ''} {', '.join(map(str, taken))}"
    values = " ".join(f"{value:g}" for value in next(iter(taken.values())))
    return (
        f"{orders}: too few n-grams of some low count to estimate the discounts, so {values} stand "
        f"in, as with KenLM's --discount_fallback",
    )


def _without_start(counts: Counts, order: int, allocate: Allocate) -> np.ndarray:
    a = adjusted_counts(counts, order, allocate)
    if order == 1:
        a = a.copy()
        a[counts.vocab_size] = 0
    return a


def modified_kneser_ney(
    counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0
) -> Estimate:
    """Interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3.4), as KenLM estimates it.

        n(h w) = a - D(a)      D_i = i - (i + 1) Y t_{i+1} / t_i      Y = t_1 / (t_1 + 2 t_2)

    for i = 1, 2 and 3 or more, each order with its own t. Where these are undefined or out of
    [0, i], the order takes 0.5, 1, 1.5, and a note says so. KenLM's lmplz counts the vocabulary's
    last word among the t of order 1 by its raw count, which can move the third decimal of D_3.

    Source: Chen & Goodman, "An empirical study of smoothing techniques for language modeling",
    1998; Heafield et al., "Scalable modified Kneser-Ney language model estimation", 2013.
    """

    def discounts(t: np.ndarray) -> tuple[float, ...]:
        if not t[1:4].all():
            return (-1.0, -1.0, -1.0)
        y = t[1] / (t[1] + 2 * t[2])
        return tuple(float(i - (i + 1) * y * t[i + 1] / t[i]) for i in (1, 2, 3))

    return _kneser_ney(counts, allocate, discounts)


def kneser_ney(counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0) -> Estimate:
    """Interpolated Kneser-Ney with one discount an order, D = t_1 / (t_1 + 2 t_2) (Kneser & Ney
    1995; Ney, Essen & Kneser 1994).
    """

    def discounts(t: np.ndarray) -> tuple[float, ...]:
        return (float(t[1] / (t[1] + 2 * t[2])),) if t[1] and t[2] else (-1.0,)

    return _kneser_ney(counts, allocate, discounts)


def witten_bell(counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0) -> Estimate:
    """Interpolated Witten-Bell (Witten & Bell 1991, method C; Chen & Goodman 1998, section 2.6).

    P(w | h) = (c(h w) + N₁₊(h •) P(w | h')) / (c(h) + N₁₊(h •))
    """
    rule = Numerators(lambda _, a: a.astype(np.float64), lambda totals, types: types)
    raw = [order.counts for order in counts.orders]
    return Estimate(_interpolated(counts, allocate, lambda order: raw[order - 1], lambda *_: rule))


def add_k(counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0) -> Estimate:
    """Add-k (Laplace and Lidstone): P(w | h) = (c(h w) + k) / (c(h) + k V), h the whole context.

    Only whole contexts count: n - 1 words, or fewer at a line's start; shorter ones know nothing,
    so a context that never occurred gives every word 1 / V.
    """
    V, base, k = counts.vocab_size, counts.vocab_size + 1, add_k
    top = len(counts.orders)
    probabilities, backoffs = [], []
    for order, own in enumerate(counts.orders, start=1):
        contexts = len(counts.orders[order - 2]) if order > 1 else 1
        # Which n-grams of this order have a whole context before their last word.
        whole = 0 if order == top else own.at_line_start
        probability = allocate(f"probabilities-{order}", len(own), np.float64)
        backoff = allocate(f"backoffs-{order - 1}", contexts, np.float64)
        for piece in chunked(contexts, backoff):
            backoff[piece] = 1
        for piece in chunked(len(own), own.keys, own.counts, backoff):
            piece = slice(max(piece.start, whole), piece.stop)
            if order > 1 and piece.start < piece.stop:
                context = own.keys[piece] // base
                first, last = int(context[0]), int(context[-1]) + 1
                # Until the end, a context's backoff holds 1 + c(h).
                backoff[first:last] += np.bincount(context - first, own.counts[piece])
        total = own.counts[:V].sum() if order == 1 else 0
        for piece in chunked(len(own), own.keys, own.counts, backoff, probability):
            probability[piece] = 1 / V
            piece = slice(max(piece.start, whole), piece.stop)
            if piece.start < piece.stop:
                c_h = backoff[own.keys[piece] // base] - 1 if order > 1 else total
                probability[piece] = (own.counts[piece] + k) / (c_h + k * V)
        if order == 1:
            probability[V] = 0
        else:
            for piece in chunked(contexts, backoff):
                c_h = backoff[piece] - 1
                backoff[piece] = np.where(c_h > 0, k * V / np.where(c_h > 0, c_h + k * V, 1), 1.0)
            backoffs.append(backoff)
        probabilities.append(probability)
    keys = tuple(order.keys for order in counts.orders[1:])
    return Estimate(Tables(V, keys, tuple(probabilities), tuple(backoffs)))


def maximum_likelihood(
    counts: Counts, allocate: Allocate = in_memory, add_k: float = 1.0
) -> Estimate:
    """Relative frequencies: P(w | h) = c(h w) / c(h), and 0 for a word never seen after h.

    The limit of add-k for k -> 0, so a context that never occurred gives every word 1 / V. One
    unseen n-gram in a text, and its perplexity is infinite.
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
