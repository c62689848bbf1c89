"""How often each n-gram occurs, by sorting packed keys: a few passes over the text an order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxlm.errors import UserError
from jaxlm.ngrams.tables import NOTHING


class OrderCounts(NamedTuple):
    """The n-grams of one order, sorted by key (see `jaxlm.ngrams`).

    keys: int64 (order 1: every id, 0 ... V); counts; suffixes: the id of each n-gram without its
    first word (order 1: empty). From `at_line_start` on, the ids are of n-grams that begin at a
    line's start: V is the largest word id, so they sort last.
    """

    keys: np.ndarray
    counts: np.ndarray
    suffixes: np.ndarray
    at_line_start: int

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Counts:
    """The n-grams of orders 1 ... n in a text of `vocab_size` words."""

    vocab_size: int
    orders: tuple[OrderCounts, ...]


class Sequences(NamedTuple):
    """A text as the n-gram reads it. words: int [T]; before_in(start, stop): int32 [stop - start],
    the token before each word, V at a line's start, so that no context reaches over it. So a text
    in a file is read in blocks.
    """

    words: np.ndarray
    before_in: Callable[[int, int], np.ndarray]

    @property
    def before(self) -> np.ndarray:
        """The token before each word, int32 [T]."""
        return self.before_in(0, len(self.words))

    @classmethod
    def lines(cls, ids: np.ndarray, end_id: int, vocab_size: int) -> "Sequences":
        """A text whose lines end in `end_id`; each line's context starts afresh."""

        def before_in(start: int, stop: int) -> np.ndarray:
            before = _previous(ids, start, stop, vocab_size)
            before[before == end_id] = vocab_size
            return before

        return cls(ids, before_in)

    @classmethod
    def stream(cls, ids: np.ndarray, start_id: int) -> "Sequences":
        """A text as one long line; `start_id` stands before it, and contexts run over line ends."""
        return cls(ids, lambda start, stop: _previous(ids, start, stop, start_id))

    @classmethod
    def rows(cls, rows: Iterable[np.ndarray], vocab_size: int) -> "Sequences":
        """Lines without a token that ends them."""
        rows = list(rows)
        before = np.concatenate([_previous(row, 0, len(row), vocab_size) for row in rows])
        return cls(np.concatenate(rows), lambda start, stop: before[start:stop])


def _previous(ids: np.ndarray, start: int, stop: int, first: int) -> np.ndarray:
    """ids[start - 1 : stop - 1] as int32, with `first` before the text."""
    previous = np.empty(stop - start, np.int32)
    if start == 0:
        previous[:1], previous[1:] = first, ids[: max(stop - 1, 0)]
    else:
        previous[:] = ids[start - 1 : stop - 1]
    return previous


def count_ngrams(text: Sequences, order: int, vocab_size: int) -> Counts:
    """Counts every n-gram of 1 ... `order` words in memory.

    The n-gram that ends at a position is looked up from the one that ended at the position before:
    one sort an order, whatever the order. Raises UserError if no line has `order` words.
    """
    base = vocab_size + 1
    dtype = np.int32 if len(text.words) < 1 << 31 else np.int64
    shorter = text.words.astype(dtype)
    counts = np.bincount(shorter, minlength=base).astype(dtype)
    orders = [OrderCounts(np.arange(base), counts, np.empty(0, dtype), vocab_size)]
    before = context = text.before
    for _ in range(2, order + 1):
        counted, ids = _count_order(text.words, context, shorter, orders[-1].at_line_start, base)
        if not len(counted):
            raise no_such_order(order, len(orders))
        orders.append(counted)
        # A context goes on to the next word of its line.
        context = np.full(len(ids), NOTHING, dtype)
        np.copyto(context[1:], ids[:-1], where=before[1:] != vocab_size)
        shorter = ids
    return Counts(vocab_size, tuple(orders))


def _count_order(
    words: np.ndarray, context: np.ndarray, shorter: np.ndarray, shorter_at_start: int, base: int
) -> tuple[OrderCounts, np.ndarray]:
    """The n-grams of one order, and which one ends at each position.

    context: the id of the n-gram before each word, NOTHING where there is none; shorter: of the one
    that ends at each position and is one word shorter.
    """
    places = np.flatnonzero(context >= 0)
    keys = context[places].astype(np.int64)
    keys *= base
    keys += words[places]
    by_key = np.argsort(keys)
    keys = keys[by_key]
    places = places[by_key]
    del by_key
    is_first = np.empty(len(keys), bool)
    is_first[:1], is_first[1:] = True, keys[1:] != keys[:-1]
    firsts = np.flatnonzero(is_first)
    ids = np.full(len(words), NOTHING, shorter.dtype)
    ids[places] = np.cumsum(is_first, dtype=shorter.dtype) - 1
    unique = keys[firsts]
    counts = np.diff(firsts, append=len(keys)).astype(shorter.dtype)
    at_start = int(np.searchsorted(unique, shorter_at_start * base))
    return OrderCounts(unique, counts, shorter[places[firsts]], at_start), ids


def check_order(text: Sequences, order: int, vocab_size: int) -> None:
    """Raises UserError if no line has `order` words, without counting any."""
    block, longest, length = 1 << 20, 0, 1
    for start in range(0, len(text.words), block):
        before = text.before_in(start, min(start + block, len(text.words)))
        # Where lines begin; the first word of a line makes a bigram with its start.
        begins = np.flatnonzero(before == vocab_size)
        ends = np.append(begins, len(before))
        length += int(ends[0])
        longest = max(longest, length)
        if len(begins):
            longest = max(longest, int(np.diff(ends).max()) + 1)
            length = len(before) - int(begins[-1]) + 1
    if order > longest:
        raise no_such_order(order, longest)


def no_such_order(order: int, longest: int) -> UserError:
    """The error of an `order` that no line is long enough for."""
    return UserError(
        f"--order {order} is larger than any line: the longest has {longest} tokens, its start "
        f"included; use --order {longest} or less, or --stream to read over line ends"
    )
