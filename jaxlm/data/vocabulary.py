"""The vocabulary: the finite list of tokens that a model knows."""

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxlm.errors import SettingError, UserError, nearest

UNK = "<unk>"
EOS = "<eos>"


@dataclass(frozen=True)
class Vocabulary:
    """A list of tokens. The id of a token is its place in the list.

    Attributes:
      tokens: the tokens in the order of their ids. `from_counts` puts the most frequent first.
      unk: the token that stands for every token that is not listed. None: a token that is not
        listed is an error.
      start: the token that stands before the first token of a text: `<eos>` for words, the line
        break for characters, bytes and BPE. None: the first token of a row is not predicted.

    Example:
      >>> vocabulary = Vocabulary(("the", "cat", UNK), unk=UNK)
      >>> vocabulary.ids(["the", "dog"]).tolist()
      [0, 2]
    """

    tokens: tuple[str, ...]
    unk: str | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.tokens)) != len(self.tokens):
            repeated = [token for token, count in Counter(self.tokens).items() if count > 1]
            raise UserError(f"the vocabulary lists {repeated[0]!r} more than once")
        for special in (self.unk, self.start):
            if special is not None and special not in self._ids:
                raise UserError(
                    f"the special token {special!r} is not one of the vocabulary's "
                    f"{len(self)} tokens"
                )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    @property
    def unk_id(self) -> int | None:
        """The id of `unk`, or None."""
        return None if self.unk is None else self._ids[self.unk]

    @property
    def start_id(self) -> int | None:
        """The id of `start`, or None."""
        return None if self.start is None else self._ids[self.start]

    def ids(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the ids of `tokens`, int32 [number of tokens].

        Raises:
          UserError: at a token that is not listed, if there is no `<unk>`.
        """
        unk_id = self.unk_id
        if unk_id is not None:
            get = self._ids.get
            return np.fromiter((get(token, unk_id) for token in tokens), np.int32)
        try:
            return np.fromiter((self._ids[token] for token in tokens), np.int32)
        except KeyError as error:
            raise self.unknown(error.args[0]) from None

    def unknown(self, token: str) -> UserError:
        """Return the error for a `token` that is not listed. It names the nearest listed tokens."""
        close = nearest(token, self.tokens) or list(self.tokens[:5])
        return UserError(
            f"{token!r} is not among the {len(self)} tokens of the vocabulary, which has no {UNK} "
            f"(nearest: {' '.join(map(repr, close))}): use one of its tokens, train with `unk` "
            f"always, or convert an ARPA file with `add_unknown`"
        )

    @classmethod
    def from_counts(
        cls,
        counts: Counter[str],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        add_unk: bool = False,
        start: str | None = None,
    ) -> "Vocabulary":
        """Return the vocabulary of the most frequent tokens.

        Tokens of equal count keep the order of their first occurrence. `<unk>` is added if
        `add_unk`, or if a token is left out. If the text has the word `<unk>` itself, as in PTB
        and WikiText-2, this word serves as `<unk>`.

        Args:
          counts: the number of occurrences of each token.
          min_count: tokens with a smaller count are left out.
          max_size: largest number of tokens, `<unk>` and `start` included.
          add_unk: whether to add `<unk>` in any case.
          start: the start token; it is added if the text lacks it. None for no start token.
        Raises:
          SettingError: if `max_size` leaves no room for a word.

        Example:
          >>> counts = Counter("a b a c a b".split())
          >>> Vocabulary.from_counts(counts, min_count=2, start=EOS).tokens
          ('a', 'b', '<eos>', '<unk>')
        """
        counts = Counter(counts)
        if start is not None:
            counts.setdefault(start, 0)
        kept = [
            token
            for token, count in counts.most_common()
            if count >= min_count or token in (UNK, start)
        ]
        unk_needed = (
            add_unk or len(kept) < len(counts) or (max_size is not None and len(kept) > max_size)
        )
        if unk_needed and UNK not in counts:
            kept.append(UNK)
        if max_size is not None and len(kept) > max_size:
            specials = [token for token in kept if token in (UNK, start)]
            room = max_size - len(specials)
            if room < 1:
                raise SettingError(
                    "vocab_size",
                    max_size,
                    f"leaves no room for words beside {' '.join(specials)}: raise it",
                )
            words = [token for token in kept if token not in specials]
            left_out = set(words[room:])
            kept = [token for token in kept if token not in left_out]
        return cls(tuple(kept), UNK if UNK in kept else None, start)

    @classmethod
    def from_list(
        cls, listed: Iterable[str], counts: Counter[str], *, start: str | None = None
    ) -> "Vocabulary":
        """Return the vocabulary of the `listed` words, with `<unk>` for all other words.

        The most frequent words of the text come first, and words that it lacks come last, in the
        order of the list.

        Args:
          listed: the words.
          counts: the number of occurrences of each token of the text.
          start: the start token; it is added if the list lacks it. None for no start token.
        Raises:
          UserError: if the text has none of the listed words.

        Example:
          >>> counts = Counter("a b a c <eos>".split())
          >>> Vocabulary.from_list(["c", "d", "a"], counts, start=EOS).tokens
          ('a', 'c', '<eos>', 'd', '<unk>')
        """
        specials = [UNK] if start is None else [start, UNK]
        words = [word for word in listed if word not in specials]
        if not any(counts[word] for word in words):
            raise UserError("no listed word occurs in the training text: is it the right list?")
        # Tokens of equal count keep the order of their first occurrence in the text.
        wanted = {*words, *specials}
        seen = [token for token, _ in counts.most_common() if token in wanted]
        tokens = dict.fromkeys([*seen, *words, *specials])
        return cls(tuple(tokens), UNK, start)
