"""Split a text into words as treebanks do: punctuation, 's and n't are separate words."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxlm.errors import UserError, choose

NONE = "none"
# What the tokenizer writes for a quotation mark, and what may stand in the text in its place.
_QUOTES = {"``": ('"', "''", "``"), "''": ('"', "''")}
Cut = tuple[int, int]


def split_words(text: str, split: str) -> tuple[str, np.ndarray]:
    """Return a text with a blank at each place where `split` divides it into words.

    All other characters stay as they are, quotation marks and blanks included.

    Args:
      text: a sentence.
      split: "treebank": as Penn Treebank does, by nltk's NLTKWordTokenizer; "wikitext": as WikiText
        does, which differs in contractions: didn 't, can 't and cannot, not did n't, ca n't and
        can not; "none": the text as it is.
    Returns:
      The text, and for each position of it the number of characters of the text as written that are
      before this position, int64 [characters + 1]. So a part [i, j] of the new text is the part
      [offsets[i], offsets[j]] of the text as written.
    Raises:
      UserError: for another `split`, and if nltk is not installed.

    Example:
      >>> text, offsets = split_words("It's \\"so\\".", "treebank")
      >>> text, offsets.tolist()
      ('It \\'s " so " .', [0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 8, 9, 9, 10])
    """
    cuts = choose(SPLITS, split, "split")
    at = cuts(text) if cuts else []
    edges = [0, *at, len(text)]
    parts = [text[first:last] for first, last in itertools.pairwise(edges)]
    # Each cut adds a blank, so the position after it has the offset of the cut a second time.
    offsets = np.insert(np.arange(len(text) + 1), at, at) if at else np.arange(len(text) + 1)
    return " ".join(parts), offsets


def _treebank_cuts(text: str) -> list[int]:
    """Return the offsets at which the Treebank tokenizer divides a text, blanks left out."""
    words = list(_aligned(text, _tokenizer().tokenize(text)))
    return [last for (_, last), (first, _) in itertools.pairwise(words) if last == first]


_BEFORE_NT = re.compile(r"n(?='t\b)", re.I)


def _wikitext_cuts(text: str) -> list[int]:
    """Return the offsets at which WikiText divides a text, where the text has no blank.

    They are those of `_treebank_cuts`, except that contractions are divided at the apostrophe.
    """
    # Letters stay together: cannot, gonna. So n't is not cut before its n.
    kept = {
        cut for cut in _treebank_cuts(text) if not (text[cut - 1].isalpha() and text[cut].isalpha())
    }
    return sorted(kept | {match.end() for match in _BEFORE_NT.finditer(text)})


SPLITS: dict[str, Callable[[str], list[int]] | None] = {
    NONE: None,
    "treebank": _treebank_cuts,
    "wikitext": _wikitext_cuts,
}
"""The ways to split a text into words, by name."""


def check_split(split: str) -> None:
    """Raise UserError for an unknown `split`, and for one that needs nltk if it is missing."""
    if choose(SPLITS, split, "split") is not None:
        _tokenizer()


def _aligned(text: str, words: Iterable[str]) -> Iterator[Cut]:
    """Yield the offsets of the words of a text, which stand one after the other.

    nltk's own span_tokenize fails on some mixtures of quotation marks.
    """
    point = 0
    for word in words:
        while point < len(text) and text[point].isspace():
            point += 1
        choices = (word, *_QUOTES.get(word, ()))
        found = next((choice for choice in choices if text.startswith(choice, point)), None)
        if found is None:
            # The rest of the text stays as it is.
            return
        yield point, point + len(found)
        point += len(found)


@functools.cache
def _tokenizer() -> Any:
    """Return nltk's tokenizer of words, which needs no data."""
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError:
        raise UserError("`split` needs a package that is missing: pip install nltk") from None
    return NLTKWordTokenizer()
