"""The view "counts": what follows two words in the training text, and what smoothing adds to it."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm.errors import UserError
from jaxlm.inspection.backing_off import MOST_TOKENS, training_split
from jaxlm.inspection.pages import view_backoff
from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.inspection.pages.html import packed
from jaxlm.inspection.traces import read
from jaxlm.models.ngram import NGram
from jaxlm.ngrams.counts import Sequences
from jaxlm.runs.run import Run

LENGTH = 2
"""Words of a context: the table counts trigrams, as the lecture does."""
SHOWN = 6
"""Next words of a context that the page keeps; it also keeps the word of the text."""
NOTHING = -1


class Following(NamedTuple):
    """The words that follow a context in a text.

    ids: ids of the words, the most frequent first. counts: how often each of them follows.
    """

    ids: np.ndarray
    counts: np.ndarray

    def count_of(self, word: int) -> int:
        """Return how often `word` follows."""
        return int(self.counts[self.ids == word].sum())


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the counts after each two words of the text, for each n-gram."""

    def of_run(run: Run) -> dict[str, Any]:
        split, _ = training_split(run)
        if len(split.ids) > MOST_TOKENS:
            raise UserError(
                f"the training text has {len(split.ids):,} tokens, and a page counts at most "
                f"{MOST_TOKENS:,}: ask `jaxlm.inspection.counts` for a single context"
            )
        model: Any = run.model
        lines = Sequences.of_split(split, model.vocab_size, model.stream)
        reading = read(run, text, options.start)
        return table_of(run, lines, reading.ids, reading.segments)

    shown, without = each(runs, options.labels, of_run, _reason)
    return or_missing(shown, without)


def _reason(run: Run) -> Both | None:
    """Return why the page counts nothing for a run, or None if it counts."""
    model = run.model
    if not isinstance(model, NGram):
        return both(
            "this run is no n-gram: it keeps no counts. Add an n-gram run to see the table of "
            "counts.",
            "这个模型不是 n-gram，没有计数。请加上一个 n-gram 模型再看计数表。",
        )
    if model.order < 2:
        return both(
            "this n-gram counts single words, without a context. Add an n-gram of order 3 or more.",
            "这个 n-gram 只数单个词，没有上文。请加上一个阶数不小于 3 的 n-gram 模型。",
        )
    return view_backoff.reason(run)


def following(lines: Sequences, contexts: np.ndarray, vocab_size: int) -> list[Following]:
    """Return what follows each context in a text, all contexts in one pass.

    The numbers are those of `jaxlm.inspection.counts`.

    Args:
      lines: the text.
      contexts: ids of the words of each context, int [C, length]; all different.
      vocab_size: V, the number of words.
    """
    length, base = contexts.shape[1], vocab_size + 1
    previous = lines.previous.astype(np.int64)
    # Place i has the words previous[i - length + 1] ... previous[i] before words[i].
    keys, wanted = np.zeros(len(previous), np.int64), np.zeros(len(contexts), np.int64)
    for back in range(length - 1, -1, -1):
        shifted = np.full(len(previous), vocab_size, np.int64)
        shifted[back:] = previous[: len(previous) - back] if back else previous
        # A context does not reach over the start of a line.
        shifted = np.where((shifted < 0) | (shifted >= vocab_size), NOTHING, shifted)
        keys = np.where((keys < 0) | (shifted < 0), NOTHING, keys * base + shifted)
        wanted = wanted * base + contexts[:, length - 1 - back]
    by_key = np.argsort(wanted)
    found = np.searchsorted(wanted[by_key], keys)
    found = np.minimum(found, len(wanted) - 1)
    hits = np.flatnonzero(wanted[by_key][found] == keys)
    context_of, words = by_key[found[hits]], np.asarray(lines.words)[hits].astype(np.int64)
    pairs, counts = np.unique(context_of * base + words, return_counts=True)
    first = np.searchsorted(pairs // base, np.arange(len(contexts) + 1))
    result = []
    for start, stop in itertools.pairwise(first.tolist()):
        # The most frequent first; of equal counts the smaller id.
        order = start + np.argsort(-counts[start:stop], kind="stable")
        result.append(Following(pairs[order] % base, counts[order]))
    return result


def table_of(
    run: Run, lines: Sequences, ids: np.ndarray, segments: Sequence[slice]
) -> dict[str, Any]:
    """Return the table of counts at each token of a text, and the smoothed probabilities.

    Args:
      run: the run of an n-gram.
      lines: its training text.
      ids: the tokens of the text, int [T].
      segments: the parts of the text that are read on their own; no context reaches over them.
    """
    model: Any = run.model
    length = min(LENGTH, model.order - 1)
    # The words before each token, the nearest last.
    before = np.full((len(ids), length), NOTHING, np.int64)
    for segment in segments:
        for back in range(1, length + 1):
            before[segment, -back][back:] = ids[segment][:-back]
    inside = (before >= 0).all(axis=1)
    if not model.stream and model.start_id is not None:
        inside &= (before != model.start_id).all(axis=1)
    contexts, place = np.unique(before[inside], axis=0, return_inverse=True)
    context_of = np.full(len(ids), NOTHING, np.int32)
    context_of[inside] = place.reshape(-1)
    found = following(lines, contexts, model.vocab_size) if len(contexts) else []
    next_ids = np.full((len(contexts), SHOWN), NOTHING, np.int32)
    times, smoothed = np.zeros_like(next_ids), np.zeros(next_ids.shape, np.float32)
    actual_times = np.zeros(len(ids), np.int32)
    actual_smoothed = np.zeros(len(ids), np.float32)
    unseen = np.zeros(len(contexts), np.float32)
    for index, (context, after) in enumerate(zip(contexts, found, strict=True)):
        p_V = distribution(run, context)
        top = after.ids[:SHOWN]
        next_ids[index, : len(top)], times[index, : len(top)] = top, after.counts[:SHOWN]
        smoothed[index, : len(top)] = p_V[top]
        unseen[index] = 1 - p_V[after.ids].sum()
        for position in np.flatnonzero(context_of == index):
            actual_times[position] = after.count_of(ids[position])
            actual_smoothed[position] = p_V[ids[position]]
    counted = np.flatnonzero(context_of >= 0)
    words: dict[int, int] = {}

    def numbered(array: np.ndarray) -> dict[str, Any]:
        flat = [-1 if i < 0 else words.setdefault(int(i), len(words)) for i in array.reshape(-1)]
        return packed(np.array(flat, np.int32).reshape(array.shape), "int32")

    arrays = {
        "ids": numbered(ids),
        "contexts": numbered(contexts),
        "next": numbered(next_ids),
        "context_of": packed(context_of, "int32"),
        "times": packed(times, "int32"),
        "smoothed": packed(smoothed, "float32"),
        "actual_times": packed(actual_times, "int32"),
        "actual_smoothed": packed(actual_smoothed, "float32"),
        "unseen": packed(unseen, "float32"),
        "total": packed(np.array([after.counts.sum() for after in found], np.int32), "int32"),
        "kinds": packed(np.array([len(after.ids) for after in found], np.int32), "int32"),
    }
    return {
        "length": length,
        "order": model.order,
        "smoothing": model.smoothing,
        "shown": SHOWN,
        "vocabulary": model.vocab_size,
        "counted": len(counted),
        "zeros": counted[actual_times[counted] == 0],
        "words": [run.tokenizer.token_text(index) for index in words],
        "arrays": arrays,
    }


def distribution(run: Run, context: np.ndarray) -> np.ndarray:
    """Return the smoothed P(w | context) of every word, with no word before the context."""
    model: Any = run.model
    carry = np.full((1, model.order - 1), NOTHING, np.int64)
    contexts, _ = model.contexts(run.params, context[None], carry)
    p_V, _ = run.params.distribution([int(ids_1P[0, -1]) for ids_1P in contexts])
    return p_V
