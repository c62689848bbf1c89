"""The tables of a back-off n-gram model, and the three things they are asked."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NOTHING = -1
"""In place of an n-gram's id: there is no such n-gram."""
Allocate = Callable[[str, int, type], np.ndarray]
"""allocate(name, length, dtype): a writable array of zeros, in memory or in a file."""


@dataclass(frozen=True)
class Tables:
    """A back-off model (Katz 1987) of any smoothing; interpolated ones are written in this form.

        P(w | h) = probability(h w)              if h w is listed
                   backoff(h) · P(w | h')        else; h' is h without its first word, and
                                                 backoff(h) = 1 where h is not listed

    keys: for orders 2 ... n, int64 [number of n-grams], sorted: prefix id · (V + 1) + word.
    probabilities: for orders 1 ... n, float64. backoffs: for orders 1 ... n - 1, float64. The
    tables of order 1 have V + 1 entries, the last being the line's start.
    """

    vocab_size: int
    keys: tuple[np.ndarray, ...]
    probabilities: tuple[np.ndarray, ...]
    backoffs: tuple[np.ndarray, ...]

    @property
    def order(self) -> int:
        """n: the words of the longest n-gram."""
        return len(self.probabilities)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many n-grams of each order are listed, the line's start not counted."""
        return (self.vocab_size, *map(len, self.keys))

    def find(self, order: int, prefixes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The ids of the n-grams (prefix, word) of `order`, NOTHING where one is not listed."""
        if order == 1:
            return words
        keys = self.keys[order - 2]
        if not len(keys):
            return np.full(np.shape(words), NOTHING, np.int64)
        wanted = prefixes.astype(np.int64) * (self.vocab_size + 1) + words
        # In sorted order a search begins where the last one ended, in memory that is at hand.
        by_key = np.argsort(wanted, axis=None)
        ordered = wanted.reshape(-1)[by_key]
        places = np.minimum(np.searchsorted(keys, ordered), len(keys) - 1)
        found = np.empty(wanted.size, np.int64)
        found[by_key] = np.where(keys[places] == ordered, places, NOTHING)
        return found.reshape(wanted.shape)

    def contexts(self, seen_BT: np.ndarray) -> list[np.ndarray]:
        """The contexts that end at each position: for lengths 1 ... n - 1, int64 ids [B, T].

        seen_BT holds word ids, V at a line's start, and NOTHING before all text. A context that is
        not listed, or would reach over a line's start, is NOTHING.
        """
        ids = [seen_BT.astype(np.int64)]
        inside_BT = (seen_BT >= 0) & (seen_BT < self.vocab_size)
        for length in range(2, self.order):
            shorter_BT = np.full_like(ids[-1], NOTHING)
            shorter_BT[:, 1:] = np.where(inside_BT[:, 1:], ids[-1][:, :-1], NOTHING)
            ids.append(self.find(length, shorter_BT, np.where(inside_BT, seen_BT, 0)))
        return ids[: self.order - 1]

    def score(
        self, contexts: Sequence[np.ndarray], words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The probability of each word after its contexts, and the order of the n-gram that
        answered. `contexts` are ids for lengths 1 ... n - 1, shaped like `words`.
        """
        probability = self.probabilities[0][words]
        answered = np.ones(np.shape(words), np.int64)
        for order, context in enumerate(contexts, start=2):
            ids = self.find(order, context, words)
            listed = ids >= 0
            weight = np.where(context >= 0, self.backoffs[order - 2][context], 1.0)
            probability = probability * weight
            probability[listed] = self.probabilities[order - 1][ids[listed]]
            answered[listed] = order
        return probability, answered

    def followers(self, order: int, context: int) -> slice:
        """The ids of the n-grams of `order` that begin with `context`."""
        base = self.vocab_size + 1
        first, last = np.searchsorted(self.keys[order - 2], [context * base, (context + 1) * base])
        return slice(int(first), int(last))

    def distribution(self, contexts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """P(w | contexts) for every word, float64 [V], and the order that answered for each."""
        probability_V = np.array(self.probabilities[0][: self.vocab_size], np.float64)
        answered_V = np.ones(self.vocab_size, np.int64)
        for order, context in enumerate(contexts, start=2):
            if context < 0:
                continue
            probability_V *= self.backoffs[order - 2][context]
            ids = self.followers(order, context)
            words = self.keys[order - 2][ids] - context * (self.vocab_size + 1)
            probability_V[words] = self.probabilities[order - 1][ids]
            answered_V[words] = order
        return probability_V, answered_V

    def words(self, order: int, ids: np.ndarray | slice | None = None) -> np.ndarray:
        """The word ids of n-grams of `order` (default: of all), [number, order]."""
        base = self.vocab_size + 1
        if order == 1:
            return np.arange(base)[ids if ids is not None else slice(None), None]
        keys = self.keys[order - 2][ids if ids is not None else slice(None)]
        return np.hstack([self.words(order - 1, keys // base), (keys % base)[:, None]])

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by the name of its file."""
        named = {f"keys-{order}": keys for order, keys in enumerate(self.keys, start=2)}
        named |= {f"probabilities-{n}": a for n, a in enumerate(self.probabilities, start=1)}
        return named | {f"backoffs-{n}": a for n, a in enumerate(self.backoffs, start=1)}

    def save(self, folder: Path) -> None:
        """Writes one .npy file an array; a map of that very file is left as it is."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays().items():
            path = folder / f"{name}.npy"
            if isinstance(array, np.memmap) and array.filename == os.path.abspath(path):
                array.flush()
            else:
                np.save(path, array)

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """Maps the files that `save` wrote into memory: nothing is read until it is asked for."""
        order = len(list(folder.glob("probabilities-*.npy")))

        def read(kind: str, orders: range) -> tuple[np.ndarray, ...]:
            paths = (folder / f"{kind}-{number}.npy" for number in orders)
            return tuple(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)

        probabilities = read("probabilities", range(1, order + 1))
        return cls(
            len(probabilities[0]) - 1,
            read("keys", range(2, order + 1)),
            probabilities,
            read("backoffs", range(1, order)),
        )


def in_memory(name: str, length: int, dtype: type) -> np.ndarray:
    """Allocates in memory."""
    return np.zeros(length, dtype)


def in_folder(folder: Path) -> Allocate:
    """Allocates .npy files of `folder`, mapped into memory."""
    folder.mkdir(parents=True, exist_ok=True)

    def allocate(name: str, length: int, dtype: type) -> np.ndarray:
        if not length:
            return np.empty(0, dtype)  # a file of no bytes cannot be mapped
        path = str(folder / f"{name}.npy")
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(length,))
        if hasattr(os, "posix_fallocate"):
            # A disk that is full is an OSError here; at a write to the map it would be the end.
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        return array

    return allocate
