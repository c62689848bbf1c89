"""A prepared text: token ids in memory-mapped files, read by their place in the whole.

    prepared/
        prepared.json       the splits' shards, and how long each is
        tokenizer.json      tokenizer and vocabulary
        train-00000.u16     ids, little-endian, of consecutive pieces of the text; written once

`python -m jaxlm.prepare` writes it (`data/preparing.py`), and `--corpus prepared` reads it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.encoding import Split, TextSize
from jaxlm.data.tokenizers import Tokenizer, from_json
from jaxlm.errors import UserError

PREPARED, TOKENIZER = "prepared.json", "tokenizer.json"
KINDS: dict[str, Any] = {"u16": np.dtype("<u2"), "u32": np.dtype("<u4")}
DECODED = 1 << 16


@dataclass(frozen=True)
class Shard:
    """A file of ids, and the size of the text they stand for."""

    file: str
    tokens: int
    text: TextSize

    def as_json(self) -> dict[str, Any]:
        """For prepared.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Shard":
        """The shard that `as_json` wrote."""
        return cls(saved["file"], saved["tokens"], TextSize(**saved["text"]))


class ShardedIds:
    """The ids of all shards of a split, one after another, as an array that is read by int, slice,
    or array of places; whole by `np.asarray`.
    """

    def __init__(self, maps: Sequence[np.ndarray]) -> None:
        self._maps = maps
        self._ends = np.cumsum([len(one) for one in maps])
        self.dtype, self.shape, self.ndim = maps[0].dtype, (len(self),), 1

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def size(self) -> int:
        return len(self)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            first, end, step = at.indices(len(self))
            return self[np.arange(first, end, step)]
        places = np.asarray(at)
        if places.size and not (-len(self) <= places.min() and places.max() < len(self)):
            raise IndexError(f"{at} is outside of {len(self)} ids")
        places = np.where(places < 0, places + len(self), places)
        shards = np.searchsorted(self._ends, places, side="right")
        found = np.empty(places.shape, self.dtype)
        for shard in np.unique(shards):
            inside = shards == shard
            start = self._ends[shard] - len(self._maps[shard])
            found[inside] = self._maps[shard][places[inside] - start]
        return found[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._maps).astype(dtype or self.dtype)

    def __eq__(self, other: object) -> Any:
        return np.asarray(self) == other

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class PreparedSource:
    """The text of a prepared split: what its tokens say, as far as it is asked for."""

    ids: Any
    tokenizer: Tokenizer
    shards: tuple[Shard, ...]

    @property
    def size(self) -> int:
        return sum(shard.text.bytes for shard in self.shards)

    def lines(self) -> Iterator[str]:
        rest = ""
        for start in range(0, len(self.ids), DECODED):
            text = rest + self.tokenizer.decode(self.ids[start : start + DECODED])
            *whole, rest = text.splitlines(keepends=True) or [""]
            yield from whole
        if rest:
            yield rest

    def sha256(self) -> str:
        listed = json.dumps([shard.as_json() for shard in self.shards])
        return hashlib.sha256(listed.encode()).hexdigest()


class PreparedSplit(Split):
    """A split whose text is not at hand, but its size is."""

    def rows(self) -> list[np.ndarray]:
        raise UserError(
            "--batching rows needs a text, of which a prepared folder has the tokens alone: use "
            "--batching streams or windows"
        )

    def text_size(self) -> TextSize:
        assert isinstance(self.source, PreparedSource)
        sizes = [tuple(asdict(shard.text).values()) for shard in self.source.shards]
        return TextSize(*map(sum, zip(*sizes, strict=True)))


def is_prepared(folder: Path) -> bool:
    """Whether it is a folder that `python -m jaxlm.prepare` made, whole or in part."""
    return (folder / PREPARED).is_file()


def kind_of(tokenizer: Tokenizer) -> str:
    """Which of KINDS holds every id."""
    return "u16" if len(tokenizer.vocabulary) <= 1 << 16 else "u32"


def read_prepared(folder: Path) -> tuple[Tokenizer, dict[str, Split]]:
    """The tokenizer and the splits. Raises UserError if the folder is unfinished or damaged."""
    try:
        saved = json.loads((folder / PREPARED).read_text(encoding="utf-8"))
        if not saved["finished"]:
            raise UserError(
                f"{folder} is not finished: repeat the command that prepares it, which goes on "
                f"where it stopped"
            )
        tokenizer = from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
        splits = {
            name: _split(folder, name, [Shard.from_json(one) for one in shards], tokenizer)
            for name, shards in saved["splits"].items()
        }
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is a damaged prepared text: {type(error).__name__}: {error}; prepare it anew"
        ) from None
    return tokenizer, splits


def _split(folder: Path, name: str, shards: list[Shard], tokenizer: Tokenizer) -> Split:
    maps = []
    for shard in shards:
        path = folder / shard.file
        dtype = KINDS[path.suffix[1:]]
        if path.stat().st_size != shard.tokens * dtype.itemsize:
            raise ValueError(f"{shard.file} is not as long as it was")
        if shard.tokens:
            maps.append(np.memmap(path, dtype, "r"))
    ids: Any = np.empty(0, KINDS["u16"])
    if maps:
        ids = maps[0] if len(maps) == 1 else ShardedIds(maps)
    return PreparedSplit(name, ids, PreparedSource(ids, tokenizer, tuple(shards)), tokenizer)
