"""Prepared texts: token ids in memory-mapped files (shards), read as one array.

    prepared/
        prepared.json       the shards of each split, and their sizes
        tokenizer.json      the tokenizer and its vocabulary
        train-00000.u16     a shard: the ids of a piece of the text, little-endian

`python -m jaxlm.prepare` writes such a folder (`jaxlm.data.preparing`). `--corpus prepared` and
`read_corpus("prepared")` read it.
"""

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.encoding import Split, TextSize
from jaxlm.data.file_digests import check_file, check_once
from jaxlm.data.json_files import read_json
from jaxlm.data.tokenizers import Tokenizer, from_json
from jaxlm.errors import UserError, reason

PREPARED, TOKENIZER = "prepared.json", "tokenizer.json"
ID_TYPES: dict[str, Any] = {"u16": np.dtype("<u2"), "u32": np.dtype("<u4")}
"""Types of the ids in a shard, by the extension of its file."""
DECODE_BLOCK = 1 << 16
IN_MEMORY = 1 << 24
"""The shards of a split of at most this many tokens (32 or 64 MB) are read into one array."""
IN_MEMORY_IF_SMALL = 1 << 28
"""The same number if the shards have fewer than SMALL_SHARD tokens on average (0.5 or 1 GB). A
batch of windows reads each of its tokens from another shard, so that a batch reads thousands of
small shards."""
SMALL_SHARD = 1 << 18
SPARE_FILES = 64
"""Shards that are opened without a look at the limit on open files."""
UNREADABLE = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.EIO)
"""Errors of the system that say nothing about a folder's files."""


@dataclass(frozen=True)
class Shard:
    """A file of token ids, and the text that they encode.

    Attributes:
      file: name of the file in the prepared folder.
      tokens: number of ids.
      text: size of the text.
      text_sha256: digest of the bytes of the text; None in a folder of an older version.
      sha256: digest of the file; None in a folder of an older version.
    """

    file: str
    tokens: int
    text: TextSize
    text_sha256: str | None = None
    sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry of this shard in prepared.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Shard":
        """Return the shard that `as_json` wrote.

        Raises:
          ValueError, KeyError, TypeError: for another entry, and for a file outside the folder.
        """
        file, tokens, size = saved["file"], saved["tokens"], TextSize(**saved["text"])
        if not re.fullmatch(r"[a-z]+-[0-9]+\.u(16|32)", file):
            raise ValueError(f"{file!r:.60} is no name of a shard")
        for number in (tokens, *asdict(size).values()):
            if type(number) is not int or number < 0:
                raise ValueError(f"{file} has a size of {number!r:.60}")
        return cls(file, tokens, size, saved.get("text_sha256"), saved.get("sha256"))

    def is_whole(self, folder: Path) -> bool:
        """Return whether the file of ids is in `folder` and has its length."""
        path = folder / self.file
        wanted = self.tokens * int(ID_TYPES[path.suffix[1:]].itemsize)
        return path.is_file() and path.stat().st_size == wanted


class ShardedIds:
    """The ids of all shards of a split, read as one array of one axis.

    Indices are integers, slices or integer arrays. `np.asarray` returns all ids.

    Example:
      >>> ids = ShardedIds([np.array([5, 6], np.uint16), np.array([7], np.uint16)])
      >>> len(ids), ids[-1].item(), ids[np.array([0, 2])].tolist()
      (3, 7, [5, 7])
    """

    def __init__(self, maps: Sequence[np.ndarray]) -> None:
        self._maps = list(maps)
        self._ends = np.cumsum([len(ids) for ids in maps])
        self.dtype, self.shape, self.ndim = maps[0].dtype, (len(self),), 1

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self)

    @property
    def maps(self) -> tuple[np.ndarray, ...]:
        """The arrays of the shards."""
        return tuple(self._maps)

    def _joined(self, first: int, end: int) -> np.ndarray:
        """Return the ids [first, end): a view of a shard, or a copy of parts of several shards."""
        parts = []
        for last, ids in zip(self._ends.tolist(), self._maps, strict=True):
            begin = last - len(ids)
            if first < last and end > begin:
                parts.append(ids[max(0, first - begin) : end - begin])
        if not parts:
            return self._maps[0][:0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            return self._joined(first, end) if step == 1 else self[np.arange(first, end, step)]
        places = np.asarray(index)
        if places.size and not (-len(self) <= places.min() and places.max() < len(self)):
            raise IndexError(f"{index} is outside of {len(self)} ids")
        places = np.where(places < 0, places + len(self), places)
        small = len(self) < SMALL_SHARD * len(self._maps)
        if len(self) <= (IN_MEMORY_IF_SMALL if small else IN_MEMORY) and len(self._maps) > 1:
            # A training step reads from many small files, and each of them takes time.
            self._maps, self._ends = [np.concatenate(self._maps)], self._ends[-1:]
        if len(self._maps) == 1:
            return self._maps[0][places]
        flat = places.ravel()
        shards = np.searchsorted(self._ends, flat, side="right")
        # The places in the order of their shards: a group for each shard.
        order = np.argsort(shards, kind="stable")
        found, starts = np.unique(shards[order], return_index=True)
        ids = np.empty(flat.shape, self.dtype)
        for shard, first, end in zip(found, starts, [*starts[1:], len(flat)], strict=False):
            group = order[first:end]
            start = self._ends[shard] - len(self._maps[shard])
            ids[group] = self._maps[shard][flat[group] - start]
        return ids.reshape(places.shape)[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._maps).astype(dtype or self.dtype)

    def __eq__(self, other: object) -> Any:
        return np.asarray(self) == other

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class PreparedSource:
    """The text of a prepared split. Reading its lines decodes the ids.

    The original bytes are not stored, so `sha256` is a hash of the list of shards and their sizes.
    """

    ids: Any
    tokenizer: Tokenizer
    shards: tuple[Shard, ...]

    @property
    def size(self) -> int:
        return sum(shard.text.bytes for shard in self.shards)

    def lines(self) -> Iterator[str]:
        decode, size = self.tokenizer.decode, len(self.tokenizer.vocabulary)
        ends_line_V = np.array([decode([id_]).endswith("\n") for id_ in range(size)])
        # Only whole lines are decoded: a line break separates words, and is in no other character.
        waiting: list[np.ndarray] = []
        for start in range(0, len(self.ids), DECODE_BLOCK):
            ids = np.asarray(self.ids[start : start + DECODE_BLOCK])
            ends = np.flatnonzero(ends_line_V[ids])
            if len(ends):
                whole = [*waiting, ids[: ends[-1] + 1]]
                yield from io.StringIO(decode(np.concatenate(whole)), newline="\n")
                waiting, ids = [], ids[ends[-1] + 1 :]
            waiting.append(ids)
        if any(map(len, waiting)):
            yield decode(np.concatenate(waiting))

    def sha256(self) -> str:
        listed = json.dumps([shard.as_json() for shard in self.shards])
        return hashlib.sha256(listed.encode()).hexdigest()


class PreparedSplit(Split):
    """A split with token ids and the size of the text, but without the text itself.

    Its source is a `PreparedSource`. `rows` raises UserError.
    """

    def rows(self) -> list[np.ndarray]:
        raise UserError(
            "a prepared folder has the tokens of its text without the lines: read it as one stream "
            "(or in windows), or give the text itself"
        )

    def text_size(self) -> TextSize:
        assert isinstance(self.source, PreparedSource)
        totals = np.zeros(4, np.int64)
        for shard in self.source.shards:
            totals += tuple(asdict(shard.text).values())
        return TextSize(*map(int, totals))


def is_prepared(folder: Path) -> bool:
    """Return whether `python -m jaxlm.prepare` made `folder`, finished or not."""
    # os.path.isfile returns False for a name that is too long for the system.
    return os.path.isfile(folder / PREPARED)


def id_type(tokenizer: Tokenizer) -> str:
    """Return the name in ID_TYPES of the smallest type that holds every id."""
    return "u16" if len(tokenizer.vocabulary) <= 1 << 16 else "u32"


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of prepared.json.

    Raises:
      UserError: if it cannot be read or is damaged.
    """
    try:
        saved = read_json(folder / PREPARED)
        settings, splits = saved.get("settings", {}), saved["splits"]
        if not isinstance(settings, dict) or not isinstance(splits, dict):
            raise TypeError("its settings or splits are not listed by name")
        if saved["finished"] and "train" not in splits:
            raise ValueError("it has no training text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder, error) from None
    return dict(saved)


def damaged(folder: Path, error: Exception) -> UserError:
    """Return the error for a prepared folder in which a file is missing or damaged."""
    why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return UserError(
        f"{folder} is a damaged prepared text ({why[:200]}): remove the folder, then prepare the "
        f"text again"
    )


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a prepared folder.

    Raises:
      UserError: if it cannot be read or is damaged.
    """
    try:
        return from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from None


def read_prepared(folder: Path) -> tuple[Tokenizer, dict[str, Split]]:
    """Return the tokenizer and the splits of a prepared text.

    Raises:
      UserError: if the folder is unfinished or damaged.
    """
    saved = read_description(folder)
    if not saved["finished"]:
        raise UserError(
            f"{folder} is not finished: repeat the command that prepares it; it continues where it "
            f"stopped"
        )
    tokenizer = read_tokenizer(folder)
    try:
        splits = {
            name: _split(folder, name, [Shard.from_json(shard) for shard in shards], tokenizer)
            for name, shards in saved["splits"].items()
        }
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise damaged(folder, error) from None
        raise UserError(f"cannot read {folder}: {reason(error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, error) from None
    return tokenizer, splits


def _check_ids(ids: np.ndarray, size: int) -> None:
    """Raise ValueError if an id is not in a vocabulary of `size` tokens."""
    if int(ids.max()) >= size:
        raise ValueError(f"it has the id {ids.max()}, and a vocabulary of {size} tokens")


def _allow_open_files(count: int) -> None:
    """Let this process open `count` more files than it may need otherwise, if the system permits.

    A memory map keeps its file open, and many systems begin with a limit of 1,024 files or fewer.
    """
    if os.name != "posix" or count < SPARE_FILES:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count
    if resource.RLIM_INFINITY not in (soft, hard):
        wanted = min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, wanted):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _split(folder: Path, name: str, shards: list[Shard], tokenizer: Tokenizer) -> Split:
    """Return a split whose ids are memory maps of its shards."""
    maps, size = [], len(tokenizer.vocabulary)
    _allow_open_files(len(shards))
    for shard in shards:
        if not shard.is_whole(folder):
            raise ValueError(f"{shard.file} is not {shard.tokens} ids long")
        if not shard.tokens:
            continue
        path = folder / shard.file
        mapped = np.memmap(path, ID_TYPES[path.suffix[1:]], "r")
        if shard.sha256 is not None:
            check_file(path, mapped.nbytes, shard.sha256)
        # The vocabulary may be damaged, not the shard.
        check_once(path, f"ids below {size}", functools.partial(_check_ids, mapped, size))
        maps.append(mapped)
    ids: Any = np.empty(0, ID_TYPES["u16"])
    if maps:
        ids = maps[0] if len(maps) == 1 else ShardedIds(maps)
    return PreparedSplit(name, ids, PreparedSource(ids, tokenizer, tuple(shards)), tokenizer)
