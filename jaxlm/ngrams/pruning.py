"""Pruning: remove n-grams from a back-off model, by count or by entropy.

By count, as KenLM's lmplz (`mark_rare`): an n-gram of order k that occurs at most T_k times gets no
probability of its own. Smoothing gives its share to the shorter context, so that the model sums to
1, and the discounts are those of all n-grams.

By entropy (`prune_by_entropy`): an n-gram is removed if the model hardly changes without it.

Both leave the words alone, and neither removes the prefix of an n-gram that stays.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from jaxlm.errors import SettingError, UserError
from jaxlm.ngrams.chunked import chunked
from jaxlm.ngrams.counts import Counts
from jaxlm.ngrams.tables import NOTHING, Allocate, Tables, in_memory

# A model whose probabilities exceed 1 by more than this is no distribution. ARPA files have seven
# digits.
TOLERANCE = 1e-3
# Where the words that are not listed have at most this probability, every word counts as listed.
NO_MASS = 1e-12


HISTORIES = ("counts", "model")
"""Where the probability of a context comes from when a model is pruned by entropy."""


def thresholds_of(prune: Sequence[int] | None, order: int) -> tuple[int, ...]:
    """Return the threshold of each order, 1 ... `order`. The last given one repeats.

    Example:
      >>> thresholds_of((0, 0, 1), 5), thresholds_of(None, 2)
      ((0, 0, 1, 1, 1), (0, 0))

    Raises:
      SettingError: for no threshold, for more than `order` of them, for a threshold that is smaller
        than the one before it, and for a threshold of words above 0.
    """
    if prune is None:
        return (0,) * order
    given = tuple(prune)
    shown = " ".join(map(str, given)) or "()"
    if not given:
        raise SettingError("prune", shown, "has no threshold: give a threshold for each order")
    if len(given) > order:
        why = f"has {len(given)} thresholds, but `order` is {order}: give {order} or fewer"
        raise SettingError("prune", shown, why)
    if given[0] != 0:
        why = (
            "would remove words: the first threshold must be 0; use `min_count` to read rare words "
            "as <unk>"
        )
        raise SettingError("prune", shown, why)
    if any(later < earlier for earlier, later in itertools.pairwise(given)):
        why = (
            "must not decrease: an n-gram could stay without the shorter n-grams in it; sort the "
            "thresholds"
        )
        raise SettingError("prune", shown, why)
    return given + (given[-1],) * (order - len(given))


def mark_rare(
    counts: Counts, thresholds: Sequence[int], allocate: Allocate = in_memory
) -> tuple[np.ndarray, ...]:
    """Return for each order, which n-grams occur at most as often as the order's threshold, bool.

    Args:
      counts: the counts of the text.
      thresholds: a threshold for each order, as `thresholds_of` returns them.
      allocate: allocates the arrays.

    Example:
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> mark_rare(count_ngrams(text, 2, vocab_size=3), (0, 1))[1].tolist()
      [True, True, True, True, False]
    """
    marks = []
    for order, (own, threshold) in enumerate(zip(counts.orders, thresholds, strict=True), start=1):
        mark = allocate(f"dropped-{order}", len(own), np.bool_)
        if threshold:
            for chunk in chunked(len(own), own.counts, mark):
                mark[chunk] = own.counts[chunk] <= threshold
        marks.append(mark)
    return tuple(marks)


def mark_words(
    counts: Counts, vocab_size: int, allocate: Allocate = in_memory
) -> tuple[np.ndarray, ...]:
    """Return for each order, which n-grams have a word whose id is `vocab_size` or more, bool.

    The start of a line is no such word.
    """
    base = counts.vocab_size + 1
    marks: list[np.ndarray] = []
    for order, own in enumerate(counts.orders, start=1):
        mark = allocate(f"outside-{order}", len(own), np.bool_)
        for chunk in chunked(len(own), own.keys, mark, *marks[-1:]):
            prefix, word = np.divmod(own.keys[chunk], base)
            mark[chunk] = (word >= vocab_size) & (word < counts.vocab_size)
            if marks:
                mark[chunk] |= marks[-1][prefix]
        marks.append(mark)
    return tuple(marks)


def without(
    tables: Tables,
    dropped: Sequence[np.ndarray],
    allocate: Allocate = in_memory,
    vocab_size: int | None = None,
) -> Tables:
    """Return the tables without some n-grams. Probabilities and back-off weights stay as they are.

    Args:
      tables: the back-off model.
      dropped: for orders 1 ... n, which n-grams are left out, bool. Order 1 is ignored.
      allocate: allocates the arrays.
      vocab_size: words whose ids are this or more are left out; None for no words.
    Raises:
      ValueError: if an n-gram would stay whose prefix is left out.

    Example:
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> from jaxlm.ngrams.smoothing import maximum_likelihood
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> tables = maximum_likelihood(count_ngrams(text, 2, vocab_size=3)).tables
      >>> without(tables, [np.zeros(4, bool), np.arange(5) < 2]).sizes
      (3, 3)
    """
    V = tables.vocab_size
    new_V = V if vocab_size is None else vocab_size
    outside = (np.arange(V + 1) >= new_V) & (np.arange(V + 1) < V)
    keys, probabilities, backoffs = [], [], []
    # new_ids[id of an n-gram of the order before] is its id in the new tables.
    new_ids: np.ndarray | None = None
    for order in range(1, tables.order + 1):
        old, drop = tables.probabilities[order - 1], dropped[order - 1] if order > 1 else outside
        weights = tables.backoffs[order - 1] if order < tables.order else None
        size = _count_kept(drop)
        probability = allocate(f"probabilities-{order}", size, np.float64)
        backoff = None if weights is None else allocate(f"backoffs-{order}", size, np.float64)
        own_keys = tables.keys[order - 2] if order > 1 else None
        key = None if own_keys is None else allocate(f"keys-{order}", size, np.int64)
        next_ids = allocate(f"new-ids-{order}", len(old), np.int64)
        done = 0
        arrays = [old, drop, weights, own_keys, probability, backoff, key, next_ids, new_ids]
        for chunk in chunked(len(old), *(array for array in arrays if array is not None)):
            kept = ~drop[chunk]
            new = slice(done, done + int(np.count_nonzero(kept)))
            probability[new] = old[chunk][kept]
            if backoff is not None and weights is not None:
                backoff[new] = weights[chunk][kept]
            if key is not None and own_keys is not None and new_ids is not None:
                prefix, word = np.divmod(own_keys[chunk][kept], V + 1)
                prefix = new_ids[prefix]
                if (prefix == NOTHING).any() or (word >= new_V).any():
                    raise ValueError(f"{order}-grams would stay without a part of them")
                key[new] = prefix * (new_V + 1) + word
            next_ids[chunk] = np.where(kept, done + np.cumsum(kept) - 1, NOTHING)
            done = new.stop
        new_ids = next_ids
        probabilities.append(probability)
        if backoff is not None:
            backoffs.append(backoff)
        if key is not None:
            keys.append(key)
    return Tables(new_V, tuple(keys), tuple(probabilities), tuple(backoffs))


def _count_kept(dropped: np.ndarray) -> int:
    return sum(int(np.count_nonzero(~dropped[part])) for part in chunked(len(dropped), dropped))


def renormalised(tables: Tables, allocate: Allocate = in_memory) -> Tables:
    """Return the tables with the back-off weights by which every context sums to 1.

        backoff(h) = (1 - Σ P(w | h)) / (1 - Σ P(w | h'))      Σ: over the words w with h w listed

    The weight of a context stays where all words are listed after it: no word backs off.

    Args:
      tables: a back-off model.
      allocate: allocates the new weights, and temporary arrays.
    Raises:
      UserError: if the listed probabilities after a context exceed 1.

    Example:
      >>> words, bigrams = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.4, 0.1])
      >>> tables = Tables(3, (np.array([0, 4]),), (words, bigrams), (np.ones(4),))
      >>> renormalised(tables).backoffs[0].round(3).tolist()  # (1 - 0.4) / (1 - 0.5), ...
      [1.2, 1.8, 1.0, 1.0]
    """
    backoffs = tuple(
        allocate(f"backoffs-{length}", len(old), np.float64)
        for length, old in enumerate(tables.backoffs, start=1)
    )
    new = Tables(tables.vocab_size, tables.keys, tables.probabilities, backoffs)
    suffixes = _suffixes(new, allocate)
    for order in range(2, new.order + 1):
        # P(w | h') needs the new weights of shorter contexts, which are complete.
        lower = _lower(new, order, suffixes, allocate)
        left, lower_left = _left_over(new, order, lower, allocate)
        weight, old = backoffs[order - 2], tables.backoffs[order - 2]
        for chunk in chunked(len(weight), weight, old, left, lower_left):
            backs_off = lower_left[chunk] > NO_MASS
            ratio = left[chunk] / np.where(backs_off, lower_left[chunk], 1)
            weight[chunk] = np.where(backs_off, ratio, old[chunk])
    return new


def prune_by_entropy(
    tables: Tables,
    threshold: float,
    end_id: int | None = None,
    allocate: Allocate = in_memory,
    histories: Sequence[np.ndarray] | None = None,
) -> Tables:
    """Return the tables without the n-grams whose loss changes the perplexity by little.

    Removing h w alone changes the distribution after h from p to p', in which w backs off, and the
    back-off weight α(h) becomes α'(h). The distance of the two is

        D(h w) = P(h) Σ_v p(v | h) (log p(v | h) - log p'(v | h))
               = -P(h) {p(w | h) [log p(w | h') + log α'(h) - log p(w | h)]
                        + [log α'(h) - log α(h)] Σ_{v not listed} p(v | h)}

    and relative to the old perplexity, the new one is larger by exp(D) - 1. The n-gram is removed
    if exp(D) - 1 < `threshold`, as by SRILM's -prune, and if it is not the prefix of an n-gram that
    stays. Long n-grams are removed before short ones. Then all back-off weights are computed anew
    (`renormalised`), so that the model sums to 1 after every context.

    Args:
      tables: a back-off model.
      threshold: the relative change of the perplexity, such as 1e-8.
      end_id: the token that ends a line. Its P(w) is the probability of a start of a line, which is
        in P(h) of the contexts that begin there. None: that probability is taken to be 1, so that
        fewer of these n-grams are removed.
      allocate: allocates the arrays.
      histories: P(h) for contexts of 1 ... n - 1 words, float [number of contexts]. None: from the
        model itself, P(h) = P(h_1) P(h_2 | h_1) ...
    Raises:
      UserError: if the listed probabilities after a context exceed 1.

    Example:
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> from jaxlm.ngrams.smoothing import witten_bell
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> tables = witten_bell(count_ngrams(text, 2, vocab_size=3)).tables
      >>> pruned = prune_by_entropy(tables, 0.01, end_id=2)
      >>> tables.sizes, pruned.sizes
      ((3, 5), (3, 2))
      >>> round(float(pruned.distribution([0])[0].sum()), 12)
      1.0

    Source: Stolcke, "Entropy-based pruning of backoff language models", 1998; SRILM's manual,
    ngram(1).
    """
    suffixes = _suffixes(tables, allocate)
    if histories is None:
        histories = _histories(tables, end_id, allocate)
    dropped = [
        allocate(f"dropped-{order}", len(own), np.bool_)
        for order, own in enumerate(tables.probabilities, start=1)
    ]
    base = tables.vocab_size + 1
    for order in range(tables.order, 1, -1):
        lower = _lower(tables, order, suffixes, allocate)
        left, lower_left = _left_over(tables, order, lower, allocate)
        keys, own = tables.keys[order - 2], tables.probabilities[order - 1]
        drop, history, weights = dropped[order - 1], histories[order - 2], tables.backoffs
        arrays = [keys, own, drop, history, weights[order - 2], lower, left, lower_left]
        for chunk in chunked(len(keys), *arrays):
            context = keys[chunk] // base
            loss = _loss(
                own[chunk],
                lower[chunk],
                left[context],
                lower_left[context],
                weights[order - 2][context],
            )
            drop[chunk] = np.expm1(history[context] * loss) < threshold
        if order < tables.order:
            longer, longer_drop = tables.keys[order - 1], dropped[order]
            for chunk in chunked(len(longer), longer, longer_drop, drop):
                drop[longer[chunk][~longer_drop[chunk]] // base] = False
    # The weights that `without` keeps are read while the new ones are written.
    kept = without(tables, dropped, renamed(allocate, "backoffs-", "old-backoffs-"))
    return renormalised(kept, allocate)


def count_histories(counts: Counts, allocate: Allocate = in_memory) -> tuple[np.ndarray, ...]:
    """Return P(h) as relative frequencies, for contexts of 1 ... n - 1 words.

        P(h) = c(h) / T      c(h): the number of words that follow h in the text of T words

    Kneser-Ney's own P(h) is poor, because its shorter n-grams count different words, not
    occurrences. The arrays leave out the contexts in `counts.dropped`, as `without` does.

    Source: Chelba, Brants, Neveitt & Xu, "Study on interaction between entropy pruning and
    Kneser-Ney smoothing", 2010.
    """
    base = counts.vocab_size + 1
    total = max(int(counts.orders[0].counts[: counts.vocab_size].sum(dtype=np.int64)), 1)
    histories = []
    for order, own in enumerate(counts.orders[1:], start=2):
        contexts = len(counts.orders[order - 2])
        history = allocate(f"histories-{order - 1}", contexts, np.float64)
        for chunk in chunked(len(own), own.keys, own.counts, history):
            context = own.keys[chunk] // base
            first, last = int(context[0]), int(context[-1]) + 1
            history[first:last] += np.bincount(context - first, own.counts[chunk] / total)
        if counts.dropped:
            history = _kept(history, counts.dropped[order - 2], f"kept-{order - 1}", allocate)
        histories.append(history)
    return tuple(histories)


def _kept(array: np.ndarray, dropped: np.ndarray, name: str, allocate: Allocate) -> np.ndarray:
    """Return the entries of an array that are not `dropped`, bool [entries]."""
    kept = allocate(name, _count_kept(dropped), array.dtype.type)
    done = 0
    for chunk in chunked(len(array), array, dropped, kept):
        entries = array[chunk][~dropped[chunk]]
        kept[done : done + len(entries)] = entries
        done += len(entries)
    return kept


def _loss(
    p: np.ndarray, lower: np.ndarray, left: np.ndarray, lower_left: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Return D(h w) / P(h) of some n-grams; infinite if w could not back off.

    Args:
      p: P(w | h).
      lower: P(w | h').
      left: 1 - Σ P(v | h) over the listed words v.
      lower_left: 1 - Σ P(v | h') over the same words.
      weight: backoff(h).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        new = np.log(left + p) - np.log(lower_left + lower)
        change = np.where(p > 0, p * (np.log(lower) + new - np.log(p)), 0.0)
        others = np.where((left > 0) & (weight > 0), left * (new - np.log(weight)), 0.0)
    return -(change + others)


def _suffixes(tables: Tables, allocate: Allocate) -> list[np.ndarray]:
    """Return for orders 2 ... n the id of each n-gram without its first word, int64; or NOTHING."""
    base = tables.vocab_size + 1
    suffixes: list[np.ndarray] = []
    for order, keys in enumerate(tables.keys, start=2):
        suffix = allocate(f"suffix-ids-{order}", len(keys), np.int64)
        shorter = suffixes[-1:]
        for chunk in chunked(len(keys), keys, suffix, *shorter):
            prefix, word = np.divmod(keys[chunk], base)
            if not shorter:
                suffix[chunk] = word
                continue
            # The suffix of h w is (the suffix of h) w. It is listed only if its prefix is.
            start = shorter[0][prefix]
            found = tables.find(order - 1, np.maximum(start, 0), word)
            suffix[chunk] = np.where(start >= 0, found, NOTHING)
        suffixes.append(suffix)
    return suffixes


def _lower(
    tables: Tables, order: int, suffixes: Sequence[np.ndarray], allocate: Allocate
) -> np.ndarray:
    """Return P(w | h') of each n-gram h w of `order`, float64."""
    lower = allocate(f"lower-{order}", len(tables.keys[order - 2]), np.float64)
    suffix, below = suffixes[order - 2], tables.probabilities[order - 2]
    for chunk in chunked(len(lower), lower, suffix, below):
        ids = suffix[chunk]
        found = np.where(ids >= 0, below[ids], 0.0)
        missing = np.flatnonzero(ids == NOTHING)
        if len(missing):
            words = tables.words(order, missing + chunk.start)
            contexts = tables.contexts(words[:, 1:-1])[: order - 2]
            last = [ids_BT[:, -1] for ids_BT in contexts]
            found[missing] = tables.score(last, words[:, -1])[0]
        lower[chunk] = found
    return lower


def _left_over(
    tables: Tables, order: int, lower: np.ndarray, allocate: Allocate
) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 - Σ P(w | h) and 1 - Σ P(w | h') of each context h, over its listed words w.

    Args:
      tables: the back-off model.
      order: the number of words of h w.
      lower: P(w | h') of each n-gram of `order`.
      allocate: allocates the arrays.
    Raises:
      UserError: if a sum exceeds 1.
    """
    base, keys, own = tables.vocab_size + 1, tables.keys[order - 2], tables.probabilities[order - 1]
    contexts = len(tables.probabilities[order - 2])
    left = allocate(f"left-{order}", contexts, np.float64)
    lower_left = allocate(f"lower-left-{order}", contexts, np.float64)
    for chunk in chunked(contexts, left, lower_left):
        left[chunk] = lower_left[chunk] = 1
    for chunk in chunked(len(keys), keys, own, lower, left, lower_left):
        context = keys[chunk] // base
        first, last = int(context[0]), int(context[-1]) + 1
        left[first:last] -= np.bincount(context - first, own[chunk])
        lower_left[first:last] -= np.bincount(context - first, lower[chunk])
    for chunk in chunked(contexts, left, lower_left):
        least = min(float(left[chunk].min()), float(lower_left[chunk].min()))
        if least < -TOLERANCE:
            raise UserError(
                f"the probabilities of the {order}-grams of a context sum to {1 - least:.4g}, not "
                f"to at most 1: this model cannot be pruned by entropy"
            )
        np.maximum(left[chunk], 0, out=left[chunk])
        np.maximum(lower_left[chunk], 0, out=lower_left[chunk])
    return left, lower_left


def _histories(tables: Tables, end_id: int | None, allocate: Allocate) -> list[np.ndarray]:
    """Return P(h) = P(h_1) P(h_2 | h_1) ... of contexts of 1 ... n - 1 words, float64."""
    base = tables.vocab_size + 1
    histories: list[np.ndarray] = []
    for order in range(1, tables.order):
        own = tables.probabilities[order - 1]
        history = allocate(f"histories-{order}", len(own), np.float64)
        keys = tables.keys[order - 2 : order - 1] if order > 1 else ()
        for chunk in chunked(len(own), own, history, *keys, *histories[-1:]):
            history[chunk] = own[chunk]
            if order > 1:
                history[chunk] *= histories[-1][keys[0][chunk] // base]
        if order == 1:
            history[tables.vocab_size] = 1.0 if end_id is None else own[end_id]
        histories.append(history)
    return histories


def renamed(allocate: Allocate, old: str, new: str) -> Allocate:
    """Return an `Allocate` by which arrays whose name begins with `old` begin with `new`."""

    def allocate_renamed(name: str, length: int, dtype: type) -> np.ndarray:
        return allocate(
            new + name.removeprefix(old) if name.startswith(old) else name, length, dtype
        )

    return allocate_renamed
