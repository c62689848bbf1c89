"""Counts of n-grams in memory: packed keys are sorted, one sort per order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxlm.errors import SettingError, UserError
from jaxlm.ngrams.tables import NOTHING

if TYPE_CHECKING:
    from jaxlm.data.encoding import Split


class OrderCounts(NamedTuple):
    """The n-grams of one order, sorted by key (see `jaxlm.ngrams`). N is their number.

    Attributes:
      keys: int64 [N]. For order 1 every id, 0 ... V.
      counts: int32 or int64 [N].
      suffixes: int32 or int64 [N], for each n-gram the id of its last n - 1 words, which are an
        n-gram of the next lower order. Empty for order 1.
      at_line_start: the smallest id of an n-gram that begins at the start of a line. N-grams with
        larger ids begin there too, because the start of a line has the largest word id, V.
    """

    keys: np.ndarray
    counts: np.ndarray
    suffixes: np.ndarray
    at_line_start: int

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Counts:
    """The n-grams of orders 1 ... n in a text with the word ids 0 ... `vocab_size` - 1.

    Attributes:
      vocab_size: V, the number of words.
      orders: the n-grams of each order.
      dropped: for each order, which n-grams a model does without, bool [number of n-grams]
        (`jaxlm.ngrams.pruning`). Empty if there are none.
      outside: the number of words, the last ids, that are in `dropped`: the model does not know
        them.
    """

    vocab_size: int
    orders: tuple[OrderCounts, ...]
    dropped: tuple[np.ndarray, ...] = ()
    outside: int = 0


class Sequences(NamedTuple):
    """A text of T words, and the token before each word.

    The token before the first word of a line is V, the start of a line, and no context reaches
    back further. Blocks of a text in a file are read one at a time.

    Attributes:
      words: word ids, int [T].
      previous_in: previous_in(start, stop) returns the tokens before words[start:stop],
        int32 [stop - start].
      by_lines: whether a token ends each line, and contexts stay within a line. Only such a text
        can be read as a stream instead.
    """

    words: np.ndarray
    previous_in: Callable[[int, int], np.ndarray]
    by_lines: bool = False

    def allows_as_stream(self, order: int) -> bool:
        """Return whether the text, read as one stream, would have n-grams of `order` words."""
        return self.by_lines and order <= len(self.words) + 1

    @property
    def previous(self) -> np.ndarray:
        """The token before each word, int32 [T]."""
        return self.previous_in(0, len(self.words))

    @classmethod
    def lines(cls, ids: np.ndarray, end_id: int, vocab_size: int) -> "Sequences":
        """Return a text in which the token `end_id` ends each line. Contexts stay within a line.

        Example:
          >>> ids, eos = np.array([0, 1, 2, 0, 2]), 2
          >>> Sequences.lines(ids, eos, vocab_size=3).previous.tolist()
          [3, 0, 1, 3, 0]
        """

        def previous_in(start: int, stop: int) -> np.ndarray:
            previous = _previous(ids, start, stop, vocab_size)
            previous[previous == end_id] = vocab_size
            return previous

        return cls(ids, previous_in, by_lines=True)

    @classmethod
    def stream(cls, ids: np.ndarray, start_id: int) -> "Sequences":
        """Return a text as one long line after `start_id`: contexts reach over line ends."""
        return cls(ids, lambda start, stop: _previous(ids, start, stop, start_id))

    @classmethod
    def rows(cls, rows: Iterable[np.ndarray], vocab_size: int) -> "Sequences":
        """Return a text from the ids of each line. No token ends a line."""
        rows = list(rows)
        previous = np.concatenate([_previous(row, 0, len(row), vocab_size) for row in rows])
        return cls(np.concatenate(rows), lambda start, stop: previous[start:stop])

    @classmethod
    def of_split(cls, split: "Split", vocab_size: int, stream: bool = False) -> "Sequences":
        """Return a split of a corpus as an n-gram counts it.

        Without a start token, the text is rows: contexts stay within a line. With a start token,
        the text is one stream if `stream`, and lines otherwise.
        """
        start_id = split.tokenizer.vocabulary.start_id
        if start_id is None:
            return cls.rows(split.rows(), vocab_size)
        if stream:
            return cls.stream(split.ids, start_id)
        return cls.lines(split.ids, start_id, vocab_size)


def _previous(ids: np.ndarray, start: int, stop: int, first: int) -> np.ndarray:
    """Return ids[start - 1 : stop - 1] as int32. The token before ids[0] is `first`."""
    previous = np.empty(stop - start, np.int32)
    if start == 0:
        previous[:1], previous[1:] = first, ids[: max(stop - 1, 0)]
    else:
        previous[:] = ids[start - 1 : stop - 1]
    return previous


def count_ngrams(text: Sequences, order: int, vocab_size: int) -> Counts:
    """Count every n-gram of 1 ... `order` words in memory.

    The prefix of the n-gram that ends at a position is the shorter n-gram that ends at the previous
    position. So each order costs one sort of int64 keys, however long its n-grams are.

    Example:
      >>> ids, eos = np.array([0, 1, 2, 0, 1, 2]), 2
      >>> counts = count_ngrams(Sequences.lines(ids, eos, vocab_size=3), 2, vocab_size=3)
      >>> bigrams = counts.orders[1]
      >>> [(int(key // 4), int(key % 4)) for key in bigrams.keys]  # 3 is the start of a line
      [(0, 1), (1, 2), (3, 0)]
      >>> bigrams.counts.tolist()
      [2, 2, 2]

    Raises:
      SettingError: if no line has `order` tokens, its start included.
    """
    base = vocab_size + 1
    # The ids of a prepared text may lie in several files.
    words = np.asarray(text.words)
    dtype = np.int32 if len(words) < 1 << 31 else np.int64
    shorter_ids = words.astype(dtype)
    counts = np.bincount(shorter_ids, minlength=base).astype(dtype)
    orders = [OrderCounts(np.arange(base), counts, np.empty(0, dtype), vocab_size)]
    previous = context_ids = text.previous
    for _ in range(2, order + 1):
        counted, ids = _count_order(words, context_ids, shorter_ids, orders[-1].at_line_start, base)
        if not len(counted):
            raise order_error(order, len(orders), text.allows_as_stream(order))
        orders.append(counted)
        # The n-gram that ends at a word is the context of the next word of the same line.
        context_ids = np.full(len(ids), NOTHING, dtype)
        np.copyto(context_ids[1:], ids[:-1], where=previous[1:] != vocab_size)
        shorter_ids = ids
    return Counts(vocab_size, tuple(orders))


def _count_order(
    words: np.ndarray,
    context_ids: np.ndarray,
    shorter_ids: np.ndarray,
    shorter_at_line_start: int,
    base: int,
) -> tuple[OrderCounts, np.ndarray]:
    """Count the n-grams of one order n.

    Args:
      words: word ids, int [T].
      context_ids: ids of the (n-1)-grams that end before each word, [T]; NOTHING where the line has
        too few words before it.
      shorter_ids: ids of the (n-1)-grams that end at each word, [T].
      shorter_at_line_start: `at_line_start` of order n - 1.
      base: V + 1.
    Returns:
      The counts, and the ids of the n-grams that end at each word, [T].
    """
    places = np.flatnonzero(context_ids >= 0)
    keys = context_ids[places].astype(np.int64)
    keys *= base
    keys += words[places]
    by_key = np.argsort(keys)
    keys = keys[by_key]
    places = places[by_key]
    del by_key
    is_first = np.empty(len(keys), bool)
    is_first[:1], is_first[1:] = True, keys[1:] != keys[:-1]
    firsts = np.flatnonzero(is_first)
    ids = np.full(len(words), NOTHING, shorter_ids.dtype)
    ids[places] = np.cumsum(is_first, dtype=shorter_ids.dtype) - 1
    unique_keys = keys[firsts]
    counts = np.diff(firsts, append=len(keys)).astype(shorter_ids.dtype)
    at_line_start = int(np.searchsorted(unique_keys, shorter_at_line_start * base))
    return OrderCounts(unique_keys, counts, shorter_ids[places[firsts]], at_line_start), ids


def longest_line(text: Sequences, vocab_size: int) -> int:
    """Return the number of tokens of the longest line, its start included. Count no n-gram."""
    block, longest, length = 1 << 20, 0, 1
    for start in range(0, len(text.words), block):
        previous = text.previous_in(start, min(start + block, len(text.words)))
        # Positions of the first words of lines. The start of a line counts as one more token.
        starts = np.flatnonzero(previous == vocab_size)
        ends = np.append(starts, len(previous))
        length += int(ends[0])
        longest = max(longest, length)
        if len(starts):
            longest = max(longest, int(np.diff(ends).max()) + 1)
            length = len(previous) - int(starts[-1]) + 1
    return longest


def check_order(text: Sequences, order: int, vocab_size: int) -> None:
    """Raise SettingError if no line has `order` tokens, its start included."""
    longest = longest_line(text, vocab_size)
    if order > longest:
        raise order_error(order, longest, text.allows_as_stream(order))


def order_error(order: int, longest: int, stream_helps: bool = False) -> UserError:
    """Return the error for an `order` above `longest`, the tokens of the longest line.

    With `stream_helps`, the message offers `stream`.
    """
    stream = ", or `stream` to read over line ends" if stream_helps else ""
    return SettingError(
        "order",
        order,
        f"is larger than any line: the longest has {longest} tokens, its start included; use "
        f"`order` {longest} or less{stream}",
    )
