"""Token ids of one split: in memory for small texts, in a memory-mapped file, written once, for
large ones.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxlm.data.sources import Source
from jaxlm.data.tokenizers import Tokenizer, to_json

IN_MEMORY_BYTES = 32 << 20
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class TextSize:
    """How long a text is, in every unit a perplexity may be asked in. Words are what white space
    separates.
    """

    bytes: int
    characters: int
    words: int
    lines: int


@dataclass(frozen=True)
class Split:
    """One split of a corpus: its token ids, the source they came from, and the tokenizer that made
    them.
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
        """Encodes `source`; a text over `in_memory_bytes` goes, block by block, into a file of the
        cache folder.
        """
        if source.size <= in_memory_bytes:
            return cls(name, tokenizer.encode(source.lines()), source, tokenizer)
        return cls(name, _memory_mapped(source, tokenizer, cache_folder()), source, tokenizer)

    def rows(self) -> list[np.ndarray]:
        """The ids of each line on its own, blank lines left out."""
        return [self.tokenizer.encode([line]) for line in self.source.lines() if line.strip()]

    def text_size(self) -> TextSize:
        """Counts the text, line breaks included, byte order mark and carriage returns not."""
        totals = np.zeros(4, np.int64)
        for line in self.source.lines():
            totals += len(line.encode("utf-8")), len(line), len(line.split()), 1
        return TextSize(*map(int, totals))


def in_blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines in lists of about BLOCK_BYTES characters."""
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
    """The ids of `source` as a read-only memory map; the file is named by what it holds, so it can
    never be stale.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer.vocabulary) <= 1 << 16 else np.uint32)
    key = hashlib.sha256(
        (source.sha256() + to_json(tokenizer)).encode("utf-8", "surrogatepass")
    ).hexdigest()
    path = folder / f"{key[:32]}.{dtype.name}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                for block in in_blocks(source.lines()):
                    tokenizer.encode(block).astype(dtype).tofile(file)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    # A file of no bytes cannot be mapped.
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
