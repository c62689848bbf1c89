"""The finite list of tokens a model knows, and what happens to the others."""

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxlm.errors import UserError, nearest

UNK = "<unk>"
EOS = "<eos>"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order, most frequent first.

    `unk` is the token that stands for every token not listed (None: there is none, and an unlisted
    token is an error). `start` is the token that stands before the first one of a text (`<eos>` for
    words, the line break for characters; None: there is none, as in the lecture, whose rows have no
    beginning to predict).
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
        return None if self.unk is None else self._ids[self.unk]

    @property
    def start_id(self) -> int | None:
        return None if self.start is None else self._ids[self.start]

    def ids(self, tokens: Iterable[str]) -> np.ndarray:
        """int32 [number of tokens]; raises UserError at a token that is not listed when there is no
        `<unk>`.
        """
        unk_id = self.unk_id
        if unk_id is not None:
            lookup = self._ids.get
            return np.fromiter((lookup(token, unk_id) for token in tokens), np.int32)
        try:
            return np.fromiter((self._ids[token] for token in tokens), np.int32)
        except KeyError as error:
            raise self.unknown(error.args[0]) from None

    def unknown(self, token: str) -> UserError:
        """The error that says `token` is not listed, with the nearest tokens that are."""
        close = nearest(token, self.tokens) or list(self.tokens[:5])
        return UserError(
            f"{token!r} is not among the {len(self)} tokens of the vocabulary, which has no {UNK} "
            f"(nearest: {' '.join(map(repr, close))}): use a known one, or train with --unk always"
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
        """The tokens seen at least `min_count` times, at most `max_size` of them (specials
        included), most frequent first.

        Ties keep the order of first appearance. `<unk>` joins when asked for, or when a token was
        left out, unless the text has it already (as PTB and WikiText-2 do: there it is an ordinary
        word). `start` joins if the text lacks it.
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
                raise UserError(
                    f"--vocab-size {max_size} leaves no room for words beside "
                    f"{' '.join(specials)}: raise it"
                )
            words = [token for token in kept if token not in specials]
            left_out = set(words[room:])
            kept = [token for token in kept if token not in left_out]
        return cls(tuple(kept), UNK if UNK in kept else None, start)
