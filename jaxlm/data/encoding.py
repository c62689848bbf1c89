"""Token ids of a split: in memory for a small text, in a memory-mapped file for a large text."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.file_digests import check_once
from jaxlm.data.files import replacing
from jaxlm.data.sources import Source
from jaxlm.data.spacing import mostly_unspaced
from jaxlm.data.tokenizers import Tokenizer, to_json
from jaxlm.errors import UserError, reason

IN_MEMORY_BYTES = 32 << 20
BLOCK_BYTES = 1 << 20
DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class TextSize:
    """The length of a text in several units. White space separates words."""

    bytes: int
    characters: int
    words: int
    lines: int

    @classmethod
    def of(cls, lines: Iterable[str]) -> "TextSize":
        """Return the length of `lines`, their line breaks included.

        Example:
          >>> TextSize.of(["the cat\\n", "é"])
          TextSize(bytes=10, characters=9, words=3, lines=2)
        """
        totals = np.zeros(4, np.int64)
        for line in lines:
            # Lines of bytes that are not UTF-8 have surrogates (`decode_lines`).
            size = len(line.encode("utf-8", "surrogateescape"))
            totals += size, len(line), len(line.split()), 1
        return cls(*map(int, totals))


@dataclass(frozen=True)
class Split:
    """A split of a corpus.

    Attributes:
      name: train, valid or test.
      ids: token ids [tokens]: int32 in memory, or uint16 or uint32 memory-mapped.
      source: the text.
      tokenizer: the tokenizer of the ids.
    """

    name: str
    ids: np.ndarray
    source: Source
    tokenizer: Tokenizer

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def encode(
        cls,
        name: str,
        source: Source,
        tokenizer: Tokenizer,
        cache_folder: Callable[[], Path],
        in_memory_bytes: int = IN_MEMORY_BYTES,
    ) -> "Split":
        """Encode a text.

        Args:
          name: name of the split.
          source: the text.
          tokenizer: converts the text to ids.
          cache_folder: returns the folder for the file of ids; called only for a large text.
          in_memory_bytes: size in bytes above which a text is encoded block by block into a file.
        Raises:
          UserError: at a token that the vocabulary lacks, if it has no `<unk>`, and if the file of
            ids cannot be written.
        """
        if source.size <= in_memory_bytes:
            return cls(name, tokenizer.encode(source.lines()), source, tokenizer)
        return cls(name, _memory_mapped(source, tokenizer, cache_folder()), source, tokenizer)

    def rows(self) -> list[np.ndarray]:
        """Return the ids of each line that is not blank, `<eos>` or the line break included."""
        return [self.tokenizer.encode([line]) for line in self.source.lines() if line.strip()]

    def has_words(self) -> bool:
        """Return whether spaces divide the text into words (`mostly_unspaced`)."""
        return not mostly_unspaced(self.source.lines())

    def text_size(self) -> TextSize:
        """Return the length of the text as lines, in which CR LF is LF (`Source.lines`)."""
        return TextSize.of(self.source.lines())


def in_blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of consecutive lines. A list ends when it has BLOCK_BYTES characters or more."""
    block, size = [], 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _memory_mapped(source: Source, tokenizer: Tokenizer, folder: Path) -> np.ndarray:
    """Return the ids of `source` as a read-only memory map; encode them unless the file exists.

    The name of the file is a hash of the text and the tokenizer, so the file is never out of date.
    It ends with the sha256 of the ids; a file that is damaged, or has no digest, is written again.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer.vocabulary) <= 1 << 16 else np.uint32)
    key = hashlib.sha256(
        (source.sha256() + to_json(tokenizer)).encode("utf-8", "surrogatepass")
    ).hexdigest()
    path = folder / f"{key[:32]}.{dtype.name}"
    if not _is_whole(path, dtype.itemsize):
        try:
            _write(source, tokenizer, path, dtype)
        except OSError as error:
            raise UserError(
                f"cannot keep the token ids of the text in {folder}: {reason(error)}: free some "
                f"space, or let JAXLM_CACHE be another folder"
            ) from None
    size = (path.stat().st_size - DIGEST_BYTES) // dtype.itemsize
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, "r", shape=(size,)) if size else np.empty(0, dtype)


def _write(source: Source, tokenizer: Tokenizer, path: Path, dtype: np.dtype[Any]) -> None:
    """Write the ids of `source` and their digest to the file `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with replacing(path, per_process=True) as partial, open(partial, "wb") as file:
        for block in in_blocks(source.lines()):
            ids = tokenizer.encode(block).astype(dtype).tobytes()
            digest.update(ids)
            file.write(ids)
        file.write(digest.digest())


def _is_whole(path: Path, item_size: int) -> bool:
    """Return whether there is a file of ids of `item_size` bytes that ends with their digest."""

    def check() -> None:
        with open(path, "rb") as file:
            left, digest = os.path.getsize(path) - DIGEST_BYTES, hashlib.sha256()
            while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
                digest.update(block)
                left -= len(block)
            if left or file.read() != digest.digest():
                raise ValueError(f"{path} is damaged")

    try:
        check_once(path, "ids and their digest", check)
        return (os.path.getsize(path) - DIGEST_BYTES) % item_size == 0
    except (OSError, ValueError):
        return False
