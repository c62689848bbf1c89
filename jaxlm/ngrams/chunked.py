"""Work on long arrays in chunks, so that memory-mapped arrays need not be in memory as a whole."""

import mmap
from collections.abc import Iterator

import numpy as np

# N-grams in a chunk: few enough that the temporary arrays of a chunk fit in a CPU cache.
CHUNK = 1 << 18
_CHUNKS_BETWEEN_DROPS = 4


def chunked(length: int, *arrays: np.ndarray) -> Iterator[slice]:
    """Yield slices of at most CHUNK items that cover range(length), in order.

    After every fourth slice and at the end, the pages of memory-mapped `arrays` are removed from
    memory (`drop_from_memory`).

    Example:
      >>> list(chunked(300_000))
      [slice(0, 262144, None), slice(262144, 300000, None)]
    """
    for number, start in enumerate(range(0, length, CHUNK), start=1):
        yield slice(start, min(start + CHUNK, length))
        if number % _CHUNKS_BETWEEN_DROPS == 0:
            drop_from_memory(*arrays)
    drop_from_memory(*arrays)


def drop_from_memory(*arrays: np.ndarray) -> None:
    """Remove the pages of memory-mapped arrays from the memory of this process.

    Written values are kept in the page cache of the system or on the disk, and are read back at the
    next access. The system would remove the pages itself, but only when memory runs short; until
    then a process looks as large as its files. Ordinary arrays are left alone, and so are
    copy-on-write maps, because they would lose their written values. On Windows nothing happens.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for array in arrays:
        owner: object = array
        while isinstance(owner, np.ndarray) and getattr(owner, "mode", "r") != "c":
            owner = owner.base
        if isinstance(owner, mmap.mmap):
            owner.madvise(mmap.MADV_DONTNEED)
