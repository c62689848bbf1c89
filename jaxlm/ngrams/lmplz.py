"""What KenLM's lmplz does in its own way: a quirk of its counts, and words that it leaves out."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

import numpy as np

from jaxlm.ngrams.counts import Counts, Sequences

BLOCK = 1 << 20


def last_ngrams(text: Sequences, counts: Counts, end_id: int, unk_id: int | None) -> list[int]:
    """Return the id of lmplz's last n-gram of each order below the top order, from order 1 on.

    lmplz sorts n-grams by their last word, then by the word before it, and so on. It numbers words
    by their first occurrence, after `<unk>`, the start of a line and the end of a line. The list
    ends at an n-gram that begins at the start of a line.

    Example:
      >>> from jaxlm.ngrams.counts import count_ngrams
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 3, 2]), end_id=2, vocab_size=4)
      >>> last_ngrams(text, count_ngrams(text, 3, vocab_size=4), end_id=2, unk_id=None)
      [3, 1]

    Args:
      text: the text.
      counts: its counts, of orders 1 ... n.
      end_id: the token that ends each line.
      unk_id: the id of `<unk>`, or None.
    """
    V, base, top = counts.vocab_size, counts.vocab_size + 1, len(counts.orders)
    rank_V = _ranks(text.words, V, end_id, unk_id)
    word = int(np.argmax(rank_V[:V]))
    places = np.concatenate(
        [
            start + np.flatnonzero(text.words[start : start + BLOCK] == word)
            for start in range(0, len(text.words), BLOCK)
        ]
    )
    words, found = [word], [word]
    while len(words) + 1 < top and words[0] != V:
        previous = np.array([text.previous_in(int(p), int(p) + 1)[0] for p in places])
        word = int(previous[np.argmax(rank_V[previous])])
        places = places[previous == word] - 1
        words.insert(0, word)
        ngram = words[0]
        for own, last in zip(counts.orders[1:], words[1:], strict=False):
            ngram = int(np.searchsorted(own.keys, ngram * base + last))
        found.append(ngram)
    return found


def with_unlisted(
    pieces: Iterable[str], tokens: SequenceOf[str], end_id: int
) -> tuple[Sequences, int]:
    """Return a text in which each word has an id of its own, and the number of its words.

    lmplz counts all words of a text, also with --limit_vocab_file, and leaves the n-grams with
    unlisted words out afterwards. Ids of words that are not in `tokens` follow those of `tokens`.

    Args:
      pieces: the tokens of the text as they stand in it.
      tokens: the tokens of the vocabulary, in the order of their ids.
      end_id: the id of the token that ends each line.

    Example:
      >>> text, V = with_unlisted(["a", "x", "b", "y", "x", "b"], ["a", "b"], end_id=1)
      >>> text.words.tolist(), V
      ([0, 2, 1, 3, 2, 1], 4)
    """
    ids = {token: index for index, token in enumerate(tokens)}
    words = np.fromiter((ids.setdefault(piece, len(ids)) for piece in pieces), np.int32)
    return Sequences.lines(words, end_id, len(ids)), len(ids)


def _ranks(words: np.ndarray, vocab_size: int, end_id: int, unk_id: int | None) -> np.ndarray:
    """Return the number that lmplz gives each token, [V + 1]; -1 if the text lacks the token.

    Token V is the start of a line.
    """
    rank_V = np.full(vocab_size + 1, -1, np.int64)
    for start in range(0, len(words), BLOCK):
        found, first = np.unique(words[start : start + BLOCK], return_index=True)
        new = rank_V[found] < 0
        rank_V[found[new]] = 3 + start + first[new]
    if unk_id is not None and rank_V[unk_id] >= 0:
        rank_V[unk_id] = 0
    rank_V[vocab_size], rank_V[end_id] = 1, 2
    return rank_V
