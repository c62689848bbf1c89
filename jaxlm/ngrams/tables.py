"""The tables of a back-off n-gram model: look-up, scores, distributions, files."""

import json
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.file_digests import check_file, check_once, file_digest
from jaxlm.data.files import replacing, write_text
from jaxlm.data.json_files import read_json

NOTHING = -1
"""The id that stands for an n-gram that is not listed."""
DIGESTS = "digests.json"
MAX_ORDER = 20
Allocate = Callable[[str, int, type], np.ndarray]
"""allocate(name, length, dtype) returns a writable array of zeros, in memory or in a file."""


@dataclass(frozen=True)
class Tables:
    """A back-off model (Katz 1987). Any smoothing, interpolated too, is written in this form.

        P(w | h) = probability(h w)              if h w is listed
                   backoff(h) · P(w | h')        else; h' is h without its first word, and
                                                 backoff(h) = 1 where h is not listed

    Attributes:
      vocab_size: V, the number of words.
      keys: for orders 2 ... n, int64 [number of n-grams], sorted: prefix id · (V + 1) + word
        (see `jaxlm.ngrams`).
      probabilities: for orders 1 ... n, float64 [number of n-grams].
      backoffs: for orders 1 ... n - 1, float64 [number of n-grams].

    The arrays of order 1 have V + 1 entries; the last is the start of a line, which has the
    probability 0.

    Example:
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> from jaxlm.ngrams.smoothing import maximum_likelihood
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> tables = maximum_likelihood(count_ngrams(text, 2, vocab_size=3)).tables
      >>> tables.order, tables.sizes
      (2, (3, 5))
      >>> tables.distribution([0])[0].round(2).tolist()  # P(w | 0)
      [0.33, 0.33, 0.33]
    """

    vocab_size: int
    keys: tuple[np.ndarray, ...]
    probabilities: tuple[np.ndarray, ...]
    backoffs: tuple[np.ndarray, ...]

    @property
    def order(self) -> int:
        """n: the number of words in the longest n-gram."""
        return len(self.probabilities)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of listed n-grams of each order, without the start of a line."""
        return (self.vocab_size, *map(len, self.keys))

    def find(self, order: int, prefixes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return the ids of the n-grams (prefix, word) of `order`.

        Args:
          order: length of the n-grams.
          prefixes: ids of the prefixes, which are n-grams of order - 1. Ignored for order 1.
          words: word ids, of the same shape.
        Returns:
          int64 ids of that shape, NOTHING where an n-gram is not listed. For order 1, `words`.
        """
        if order == 1:
            return words
        keys = self.keys[order - 2]
        if not len(keys):
            return np.full(np.shape(words), NOTHING, np.int64)
        wanted = prefixes.astype(np.int64) * (self.vocab_size + 1) + words
        # Searches in sorted order find most of what they read in the CPU cache.
        by_key = np.argsort(wanted, axis=None)
        wanted_sorted = wanted.reshape(-1)[by_key]
        places = np.minimum(np.searchsorted(keys, wanted_sorted), len(keys) - 1)
        ids = np.empty(wanted.size, np.int64)
        ids[by_key] = np.where(keys[places] == wanted_sorted, places, NOTHING)
        return ids.reshape(wanted.shape)

    def contexts(self, seen_BT: np.ndarray) -> list[np.ndarray]:
        """Return the ids of the contexts that end with the word at each position.

        Args:
          seen_BT: ids of the words that the model reads, V at the start of a line, and NOTHING
            before the text.
        Returns:
          For each context length 1 ... n - 1, int64 ids [B, T]: NOTHING where the context is not
          listed, or would reach back beyond the start of a line or of `seen_BT`.
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
        """Return P(word | context) for each word.

        Args:
          contexts: context ids for lengths 1 ... n - 1, each of the shape of `words` (`contexts`).
          words: word ids.
        Returns:
          The probabilities, float64, and for each probability the order of the longest listed
          n-gram that ends with the word, int64.
        """
        probability = self.probabilities[0][words]
        orders = np.ones(np.shape(words), np.int64)
        for order, context in enumerate(contexts, start=2):
            ids = self.find(order, context, words)
            listed = ids >= 0
            probability = probability * self.weights(order - 1, context)
            probability[listed] = self.probabilities[order - 1][ids[listed]]
            orders[listed] = order
        return probability, orders

    def weights(self, length: int, contexts: np.ndarray) -> np.ndarray:
        """Return backoff(h) of contexts of `length` words; 1 where a context is NOTHING."""
        weight = np.ones(np.shape(contexts))
        listed = contexts >= 0
        weight[listed] = self.backoffs[length - 1][contexts[listed]]
        return weight

    def followers(self, order: int, context: int) -> slice:
        """Return the ids of the n-grams of `order` whose prefix is `context`."""
        base = self.vocab_size + 1
        first, last = np.searchsorted(self.keys[order - 2], [context * base, (context + 1) * base])
        return slice(int(first), int(last))

    def distribution(self, contexts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return P(w | contexts) for every word w.

        Args:
          contexts: one context id for each length 1 ... n - 1, or fewer at the start of a text.
            NOTHING stands for a context that is not listed.
        Returns:
          The probabilities, float64 [V], and for each probability the order of the longest listed
          n-gram that ends with w, int64 [V].
        """
        ids = [np.array([context], np.int64) for context in contexts]
        p_1V, order_1V = self.distributions(ids, orders=True, batch=1)
        assert order_1V is not None
        return p_1V[0], order_1V[0]

    def distributions(
        self, contexts: Sequence[np.ndarray], orders: bool = False, batch: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return P(w | h) of every word w after each of B contexts.

        The followers of the contexts are ragged: one list of words for each context. For each
        order, the lists of all contexts are read as one array, and one assignment writes their
        probabilities over those of the shorter contexts. So the time grows with B · V and the
        number of followers, and no Python code runs for each context.

        Args:
          contexts: context ids for lengths 1 ... n - 1, int64 [B] each (`contexts`), or fewer at
            the start of a text. NOTHING stands for a context that is not listed.
          orders: whether to return the orders too.
          batch: B; None for the length of the first of `contexts`, which has none if n = 1.
        Returns:
          The probabilities, float64 [B, V]; and with `orders` the order of the longest listed
          n-gram that ends with each word, int64 [B, V], else None.

        Example:
          >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
          >>> from jaxlm.ngrams.smoothing import witten_bell
          >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
          >>> tables = witten_bell(count_ngrams(text, 2, vocab_size=3)).tables
          >>> tables.distributions([np.array([1, NOTHING])])[0].round(3).tolist()
          [[0.222, 0.111, 0.667], [0.444, 0.222, 0.333]]
        """
        batch = len(contexts[0]) if batch is None else batch
        p_V = np.asarray(self.probabilities[0][: self.vocab_size], np.float64)
        p_BV = np.repeat(p_V[None], batch, axis=0)
        order_BV = np.ones(p_BV.shape, np.int64) if orders else None
        base = self.vocab_size + 1
        for order, context_B in enumerate(contexts, start=2):
            listed_L = np.flatnonzero(context_B >= 0)
            context_L = context_B[listed_L]
            if not len(context_L):
                continue
            if len(context_L) == len(p_BV):
                p_BV *= self.backoffs[order - 2][context_L][:, None]
            else:
                p_BV[listed_L] *= self.backoffs[order - 2][context_L][:, None]
            # Fancy indices are slower into memory maps than into plain arrays.
            keys = np.asarray(self.keys[order - 2])
            first_L = np.searchsorted(keys, context_L * base)
            size_L = np.searchsorted(keys, (context_L + 1) * base) - first_L
            # N followers of all contexts.
            index_N, ids_N = expand_ranges(first_L, size_L)
            rows_N = listed_L[index_N]
            words_N = keys[ids_N] - context_L[index_N] * base
            p_BV[rows_N, words_N] = np.asarray(self.probabilities[order - 1])[ids_N]
            if order_BV is not None:
                order_BV[rows_N, words_N] = order
        return p_BV, order_BV

    def words(self, order: int, ids: np.ndarray | slice | None = None) -> np.ndarray:
        """Return the words of the n-grams `ids` of `order` (default: all), int64 [N, order]."""
        base = self.vocab_size + 1
        if order == 1:
            return np.arange(base)[ids if ids is not None else slice(None), None]
        keys = self.keys[order - 2][ids if ids is not None else slice(None)]
        return np.hstack([self.words(order - 1, keys // base), (keys % base)[:, None]])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array by the name of its file without .npy, such as keys-2."""
        named = {f"keys-{order}": keys for order, keys in enumerate(self.keys, start=2)}
        named |= {f"probabilities-{n}": a for n, a in enumerate(self.probabilities, start=1)}
        return named | {f"backoffs-{n}": a for n, a in enumerate(self.backoffs, start=1)}

    def save(self, folder: Path) -> None:
        """Write each array to a .npy file of `folder`, and their sizes and digests to DIGESTS.

        An array that maps the whole file already, from `in_folder` or `load`, is only flushed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays().items():
            path = folder / f"{name}.npy"
            if _maps_file(array, path):
                array.flush()  # type: ignore[attr-defined]
                continue
            # A file that other arrays map is replaced, not overwritten.
            with replacing(path) as written, open(written, "wb") as file:
                # As np.save does, whose error for a full disk does not say that the disk is full.
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(array).data if array.size else b"")
        paths = [folder / f"{name}.npy" for name in self.arrays()]
        digests = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in paths
        }
        write_text(folder / DIGESTS, json.dumps(digests, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, check: bool = True) -> "Tables":
        """Return tables whose arrays are memory maps of the files that `save` wrote.

        Args:
          folder: the folder of the files.
          check: whether to compare the files with their digests. Tables of older versions have no
            digests; the values of their arrays are checked instead.
        Raises:
          OSError: if a file is missing or cannot be read.
          ValueError: if a file is damaged.
        """
        order = len(list(folder.glob("probabilities-*.npy")))
        has_digests = (folder / DIGESTS).exists()
        if check and has_digests:
            for name, saved in _read_digests(folder / DIGESTS).items():
                check_file(folder / name, saved["bytes"], saved["sha256"])

        def read(kind: str, orders: range) -> tuple[np.ndarray, ...]:
            return tuple(_map(folder / f"{kind}-{number}.npy") for number in orders)

        # The shortest tables have order 1.
        probabilities = read("probabilities", range(1, max(order, 1) + 1))
        tables = cls(
            len(probabilities[0]) - 1,
            read("keys", range(2, order + 1)),
            probabilities,
            read("backoffs", range(1, order)),
        )
        if check and not has_digests:
            tables._check_shapes()
            for name, array in tables.arrays().items():
                check_once(folder / f"{name}.npy", "values", partial(_check, name, array))
        return tables

    def _check_shapes(self) -> None:
        """Raise ValueError if arrays that belong together have different lengths, or wrong types.

        Example:
          >>> Tables(2, (), (np.zeros(2),), ())._check_shapes()
          Traceback (most recent call last):
          ValueError: probabilities-1 has 2 entries, not 3
        """
        lengths = [self.vocab_size + 1, *map(len, self.keys)]
        for name, array in self.arrays().items():
            kind, number = name.split("-")
            wanted = np.int64 if kind == "keys" else np.float64
            if array.ndim != 1 or array.dtype != wanted:
                raise ValueError(f"{name} has the type {array.dtype}, not {np.dtype(wanted)}")
            if len(array) != lengths[int(number) - 1]:
                raise ValueError(f"{name} has {len(array)} entries, not {lengths[int(number) - 1]}")


def _map(path: Path) -> np.ndarray:
    """Return a memory map of a .npy file.

    Raises:
      ValueError: if the file is no array.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python, which raises unrelated types
        raise ValueError(f"{path.name} is no array: {error}") from None


def _read_digests(path: Path) -> dict[str, dict[str, Any]]:
    """Return the sizes and digests that `Tables.save` wrote.

    Raises:
      ValueError: if the file is damaged.
    """
    saved = read_json(path)
    if not isinstance(saved, dict) or not all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() and "/" not in name
        for name, entry in saved.items()
    ):
        raise ValueError(f"{path.name} is no list of digests")
    return saved


def _check(name: str, array: np.ndarray) -> None:
    """Raise ValueError if an array `name` of tables has values that it cannot have."""
    if name.startswith("keys"):
        good = bool(np.all(array[1:] > array[:-1]) and (not len(array) or array[0] >= 0))
    else:
        highest = 1 + 1e-6 if name.startswith("probabilities") else np.inf
        good = bool(np.all(array >= 0) and np.all(array <= highest) and np.isfinite(array).all())
    if not good:
        raise ValueError(f"{name} has values that it cannot have")


def _maps_file(array: np.ndarray, path: Path) -> bool:
    """Return whether `array` is a memory map of the whole file `path`."""
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):
        return False
    return array.filename is not None and path.exists() and path.samefile(array.filename)


def expand_ranges(first: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers first[i] ... first[i] + size[i] - 1 for each i, with the i of each.

    Example:
      >>> [array.tolist() for array in expand_ranges(np.array([7, 2, 4]), np.array([2, 0, 1]))]
      [[0, 0, 2], [7, 8, 4]]
    """
    index_N = np.repeat(np.arange(len(size)), size)
    before = np.cumsum(size) - size
    return index_N, np.arange(len(index_N)) + (first - before)[index_N]


def in_memory(name: str, length: int, dtype: type) -> np.ndarray:
    """Return an array of zeros in memory: an `Allocate`. `name` is ignored."""
    return np.zeros(length, dtype)


def in_folder(folder: Path) -> Allocate:
    """Return an `Allocate` whose arrays are memory-mapped .npy files of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)

    def allocate(name: str, length: int, dtype: type) -> np.ndarray:
        if not length:
            return np.empty(0, dtype)  # an empty file cannot be mapped
        path = str(folder / f"{name}.npy")
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(length,))
        if hasattr(os, "posix_fallocate"):
            # On a full disk this raises OSError. A write to the map would kill the process instead.
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        return array

    return allocate
