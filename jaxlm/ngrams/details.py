"""Ranks and entropies of a back-off model for all tokens of a text, without whole distributions."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.ngrams.tables import Tables, expand_ranges

TOKENS = 1 << 17
"""Tokens that are answered together. More tokens share more contexts, and need more memory."""
NGRAMS = 1 << 18
"""N-grams that are read together, unless a single context is followed by more words."""


class _Contexts(NamedTuple):
    """The distinct contexts of one length, with sums over their distributions.

    Attributes:
      ids: ids of the contexts for each length from 1 to the length, int64 [C] each.
      sums: Σ_w P(w | context), [C].
      negative_entropies: Σ_w P(w | context) log P(w | context), [C].
    """

    ids: list[np.ndarray]
    sums: np.ndarray
    negative_entropies: np.ndarray


def rank_and_entropy(
    tables: Tables, contexts: Sequence[np.ndarray], targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each target and the entropy of its distribution.

        rank(w, h)  =  1 + number of words v with P(v | h) > P(w | h)
        H(h)        =  - Σ_v P(v | h) log P(v | h)          in nats, with 0 log 0 = 0

    Both follow from those of the shorter context h' and from the words that are listed after h.
    Let b = backoff(h), let v run over the listed words, and let q(v) = b P(v | h'):

        N(h, t)  =  N(h', t / b)  +  #{v: P(v | h) > t}  -  #{v: q(v) > t}
        -H(h)    =  b S(h') log b - b H(h')  +  Σ_v P(v | h) log P(v | h)  -  Σ_v q(v) log q(v)

    N(h, t) is the number of words more probable than t, and S(h) = Σ_v P(v | h), which need not be
    1. The code does not divide t by b. It multiplies as `Tables.distribution` does, so that equal
    probabilities stay equal. Products with a factor b ≥ 0 keep the order of the other factors, also
    in floating point. So a binary search over sorted probabilities counts the words above t.

    Args:
      tables: the back-off model.
      contexts: context ids for lengths 1 ... n - 1, each of the shape of `targets`
        (`Tables.contexts`). NOTHING stands for a context that is not listed.
      targets: word ids.
    Returns:
      The ranks, int64, and the entropies, float64, of the shape of `targets`. They are those of
      `Tables.distribution`: ranks exactly, entropies up to rounding.

    Example:
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> from jaxlm.ngrams.smoothing import witten_bell
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> tables = witten_bell(count_ngrams(text, 2, vocab_size=3)).tables
      >>> tables.distribution([1])[0].round(3).tolist()  # P(w | 1)
      [0.222, 0.111, 0.667]
      >>> rank, entropy = rank_and_entropy(tables, [np.array([1, 1, 1])], np.array([0, 1, 2]))
      >>> rank.tolist(), entropy.round(3).tolist()
      ([2, 3, 1], [0.849, 0.849, 0.849])
    """
    shape = np.shape(targets)
    # Fancy indices are slower into memory maps than into plain arrays.
    plain = Tables(
        tables.vocab_size,
        tuple(map(np.asarray, tables.keys)),
        tuple(map(np.asarray, tables.probabilities)),
        tuple(map(np.asarray, tables.backoffs)),
    )
    words = np.asarray(targets, np.int64).reshape(-1)
    flat = [np.asarray(ids, np.int64).reshape(-1) for ids in contexts]
    unigrams = np.sort(plain.probabilities[0][: plain.vocab_size])
    rank, entropy = np.empty(len(words), np.int64), np.empty(len(words))
    for start in range(0, len(words), TOKENS):
        part = slice(start, start + TOKENS)
        rank[part], entropy[part] = _answer(
            plain, unigrams, [ids[part] for ids in flat], words[part]
        )
    return rank.reshape(shape), entropy.reshape(shape)


def _answer(
    tables: Tables, unigrams: np.ndarray, contexts: list[np.ndarray], words: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks and entropies as `rank_and_entropy` does, of as many tokens as fit in memory.

    `unigrams` are the sorted probabilities of order 1.
    """
    threshold, _ = tables.score(contexts, words)
    if contexts:
        # Tokens with the same contexts become neighbours, for every length of the contexts.
        by_context = np.lexsort(contexts[::-1])
        contexts = [ids[by_context] for ids in contexts]
    else:
        by_context = np.arange(len(words))
    threshold = threshold[by_context]
    weights = [tables.weights(length, ids) for length, ids in enumerate(contexts, start=1)]
    nothing, all_words = np.zeros(len(words), np.int64), np.full(len(words), len(unigrams))
    greater = _count_greater(unigrams, nothing, all_words, threshold, weights)
    found = _Contexts([], unigrams.sum()[None], _p_log_p(unigrams).sum()[None])
    context_of = nothing  # for each token, the place of its context in `found`
    for length, ids in enumerate(contexts, start=1):
        is_new = np.ones(len(words), bool)
        is_new[1:] = (context_of[1:] != context_of[:-1]) | (ids[1:] != ids[:-1])
        firsts = np.flatnonzero(is_new)
        shorter = context_of[firsts]
        longer_ids = [shorter_ids[shorter] for shorter_ids in found.ids] + [ids[firsts]]
        weight = weights[length - 1][firsts]
        # What holds if no word is listed after the context.
        sums = weight * found.sums[shorter]
        negative_entropies = weight * found.negative_entropies[shorter]
        negative_entropies += _p_log_p(weight) * found.sums[shorter]
        ends = np.append(firsts[1:], len(words))
        for part, first, size in _parts(tables, length + 1, longer_ids[-1]):
            context_N, ngram_N = expand_ranges(first, size)
            next_N = tables.keys[length - 1][ngram_N] % (tables.vocab_size + 1)
            p_N = tables.probabilities[length][ngram_N]
            below_N, _ = tables.score(
                [longer[part][context_N] for longer in longer_ids[:-1]], next_N
            )
            q_N = below_N * weight[part][context_N]
            sums[part] += _sum_by(context_N, p_N - q_N, len(size))
            negative_entropies[part] += _sum_by(context_N, _p_log_p(p_N) - _p_log_p(q_N), len(size))
            tokens = slice(firsts[part.start], ends[part.stop - 1])
            context_T = np.repeat(np.arange(len(size)), (ends - firsts)[part])
            last = np.cumsum(size)
            bounds = (last - size)[context_T], last[context_T], threshold[tokens]
            after = [weight_T[tokens] for weight_T in weights[length:]]
            for values_N, sign in ((p_N, 1), (q_N, -1)):
                ascending_N = _sort_each(values_N, context_N)
                greater[tokens] += sign * _count_greater(ascending_N, *bounds, after)
        found = _Contexts(longer_ids, sums, negative_entropies)
        context_of = np.cumsum(is_new) - 1
    rank, entropy = np.empty(len(words), np.int64), np.empty(len(words))
    rank[by_context] = 1 + greater
    entropy[by_context] = -found.negative_entropies[context_of]
    return rank, entropy


def _parts(
    tables: Tables, order: int, contexts: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield slices of `contexts`, each followed by about NGRAMS n-grams of `order` at most.

    With each slice come the ids of the first n-gram after each context, and their numbers.
    """
    base = tables.vocab_size + 1
    keys = tables.keys[order - 2]
    first = np.searchsorted(keys, contexts * base)
    size = np.searchsorted(keys, (contexts + 1) * base) - first
    size[contexts < 0] = 0
    before = np.cumsum(size) - size
    # A slice has at most 2¹⁶ contexts, as `_sort_each` needs.
    places = np.arange(len(contexts))
    cuts = np.flatnonzero(np.diff(before // NGRAMS) + np.diff(places // 2**16)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(contexts)], strict=True):
        part = slice(int(start), int(stop))
        if size[part].any():
            yield part, first[part], size[part]


def _count_greater(
    values: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    threshold: np.ndarray,
    weights: Sequence[np.ndarray],
) -> np.ndarray:
    """Return how many of values[first:last] exceed the threshold after they are weighted.

    Args:
      values: numbers, ascending from each `first` to its `last`.
      first: first place of each question, int64 [T].
      last: the place after the last place of each question, int64 [T].
      threshold: the number to exceed, [T].
      weights: factors ≥ 0, [T] each. A value is multiplied by one after the other.

    Example:
      >>> values = np.array([0.1, 0.2, 0.4])
      >>> bounds = np.array([0, 0]), np.array([3, 3])
      >>> _count_greater(values, *bounds, np.array([0.2, 0.2]), [np.array([1, 2])]).tolist()
      [1, 2]
    """
    # With the longest ranges first, the questions that need a step are the first questions.
    size = last - first
    by_size = np.argsort(-size, kind="stable")
    first, size, threshold = first[by_size], size[by_size], threshold[by_size]
    weights = [weight[by_size] for weight in weights]
    # The first places that are known not to exceed the threshold, counted from `first`.
    below = np.zeros_like(size)
    longest = int(size[0]) if len(size) else 0
    for step in (1 << bit for bit in reversed(range(longest.bit_length()))):
        asked = slice(0, int(np.searchsorted(-size, -step, side="right")))
        wider = below[asked] + step
        weighted = values[first[asked] + np.minimum(wider, size[asked]) - 1]
        for weight in weights:
            weighted *= weight[asked]
        is_below = (wider <= size[asked]) & (weighted <= threshold[asked])
        below[asked] += step * is_below
    greater = np.empty_like(size)
    greater[by_size] = size - below
    return greater


def _sort_each(values_N: np.ndarray, index_N: np.ndarray) -> np.ndarray:
    """Return the values, sorted within each index.

    Args:
      values_N: the values.
      index_N: the index of each value, ascending, from 0 to 2¹⁶ - 1.

    Example:
      >>> _sort_each(np.array([0.3, 0.2, 0.1]), np.array([0, 0, 1])).tolist()
      [0.2, 0.3, 0.1]
    """
    by_value = np.argsort(values_N)
    # NumPy sorts numbers of 16 bits by radix.
    by_index = np.argsort(index_N.astype(np.uint16)[by_value], kind="stable")
    return values_N[by_value[by_index]]


def _sum_by(index_N: np.ndarray, values_N: np.ndarray, length: int) -> np.ndarray:
    """Return the sums of the values with the index 0 ... length - 1."""
    return np.bincount(index_N, values_N, length)


def _p_log_p(p: np.ndarray) -> np.ndarray:
    """Return p log p, and 0 for p = 0."""
    return p * np.log(np.where(p > 0, p, 1))
