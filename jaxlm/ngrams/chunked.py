"""Work on long arrays in pieces, so that those in files need not be in memory."""

import mmap
from collections.abc import Iterator

import numpy as np

# What is in between, for this many n-grams, fits in a cache.
PIECE = 1 << 18
_PIECES_TO_RELEASE = 4


def chunked(length: int, *arrays: np.ndarray) -> Iterator[slice]:
    """Slices that cover `length`. What was touched of `arrays` is released on the way."""
    for number, start in enumerate(range(0, length, PIECE), start=1):
        yield slice(start, min(start + PIECE, length))
        if number % _PIECES_TO_RELEASE == 0:
            release(*arrays)
    release(*arrays)


def release(*arrays: np.ndarray) -> None:
    """Takes arrays that are files mapped into memory out of this process's memory; what was written
    stays, in the system's cache or on the disk, and comes back when it is asked for.

    The system would do so itself, but only when other memory runs short; until then a process
    looks as large as its files.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return  # Windows
    for array in arrays:
        owner: object = array
        # Of a copy-on-write map, what was written would be lost.
        while isinstance(owner, np.ndarray) and getattr(owner, "mode", "r") != "c":
            owner = owner.base
        if isinstance(owner, mmap.mmap):
            owner.madvise(mmap.MADV_DONTNEED)
