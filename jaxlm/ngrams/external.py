"""Counts of n-grams that do not fit in memory: one SQL query with GROUP BY for each order.

1. `write_windows` writes a row of a Parquet file for every position of the text: the word, and the
   words before it.
2. An engine (`jaxlm.ngrams.engines`) counts and sorts the rows, and spills to disk as needed.
3. `count_windows` reads the result in blocks, and writes the arrays of `count_ngrams` to files.

Sorting n-grams by their words also sorts them by their keys (see `jaxlm.ngrams`).
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.errors import SettingError, choose
from jaxlm.ngrams.chunked import drop_from_memory
from jaxlm.ngrams.counts import Counts, OrderCounts, Sequences, count_ngrams, order_error
from jaxlm.ngrams.engines import ENGINES, Engine, import_pyarrow, run_duckdb
from jaxlm.ngrams.tables import Allocate, in_folder, in_memory

# The largest number of rows in memory at a time, about 200 bytes each.
BLOCK = 1 << 20
# Memory of Python and its libraries, JAX included.
PYTHON_BYTES = 250_000_000
UNITS = {"": 1, **{f"{p}B": 1000**n for n, p in enumerate(("", "K", "M", "G", "T"))}}
UNITS |= {f"{p}IB": 1024**n for n, p in enumerate(("K", "M", "G", "T"), start=1)}


def parse_memory(text: str) -> int:
    """Return the number of bytes that `text` means.

    Example:
      >>> parse_memory("2GB"), parse_memory("1.5 GiB"), parse_memory("500000")
      (2000000000, 1610612736, 500000)

    Raises:
      SettingError: if `text` is not a positive amount of memory.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in UNITS or not float(match[1]):
        raise SettingError(
            "memory", repr(text), "is not an amount of memory: write 2GB, 500MB or 1.5GiB"
        )
    return int(float(match[1]) * UNITS[match[2].upper()])


def available(memory: int) -> int:
    """Return the bytes that counting may use if the whole process is limited to `memory` bytes.

    Python and its libraries take 250 MB. If `memory` is less than twice that, counting gets half of
    it, and the process may exceed the limit.
    """
    return memory - min(PYTHON_BYTES, memory // 2)


def bytes_needed(tokens: int, order: int, vocab_size: int) -> int:
    """Return an upper bound of the bytes that counting in memory and any smoothing take.

    A text of T words has at most T n-grams of an order. Each n-gram keeps a key, a count, a suffix,
    a probability and a backoff. To sort the keys of an order takes, for each word of the text, four
    ids and 40 bytes: keys, positions, and the permutation that sorts the keys.
    """
    id_bytes = 4 if tokens < 1 << 31 else 8
    ngrams = sum(min(tokens, (vocab_size + 1) ** n) for n in range(1, order + 1))
    return tokens * (4 * id_bytes + 40) + ngrams * (2 * id_bytes + 24)


def count_within(
    text: Sequences,
    order: int,
    vocab_size: int,
    memory: int | None,
    results: Path,
    scratch: Path,
    engine: str = "duckdb",
) -> tuple[Counts, Allocate]:
    """Count every n-gram of 1 ... `order` words within a limit of memory.

    A text that fits (`bytes_needed`) is counted in memory. Else the engine counts, and all arrays
    are memory-mapped files.

    Args:
      text: the text to count.
      order: number of words in the longest n-gram.
      vocab_size: V, the number of word ids.
      memory: limit in bytes for the whole process, or None for no limit.
      results: folder for the arrays that a model keeps; `Tables.save` leaves them there.
      scratch: folder for all other arrays. The caller removes it after smoothing.
      engine: a name in ENGINES.
    Returns:
      The counts, and the `Allocate` (`jaxlm.ngrams.tables`) with which a smoothing stays within the
      limit too.
    Raises:
      SettingError: if no line has `order` tokens, its start included.
      UserError: if the engine is unknown or not installed, or needs more memory.
      OSError: if the disk is full.
    """
    needed = bytes_needed(len(text.words), order, vocab_size)
    if memory is None or needed <= available(memory):
        return count_ngrams(text, order, vocab_size), in_memory
    run = choose(ENGINES, engine, "engine")
    windows = scratch / "windows"
    write_windows(text, order, vocab_size, windows / "part-00000.parquet")
    allocate = in_folders(results, scratch)
    counts = count_windows(windows, order, vocab_size, memory, scratch, allocate, run)
    shutil.rmtree(windows)
    return counts, allocate


def in_folders(results: Path, scratch: Path) -> Allocate:
    """Return an `Allocate` of files: in `results` for arrays that a model keeps, else `scratch`."""
    allocate_result, allocate_scratch = in_folder(results), in_folder(scratch)

    def allocate(name: str, length: int, dtype: type) -> np.ndarray:
        # A model does not keep backoffs-0, the backoff of the empty context.
        is_result = re.fullmatch(r"(keys|probabilities|backoffs)-[1-9]\d*", name)
        return (allocate_result if is_result else allocate_scratch)(name, length, dtype)

    return allocate


def columns(order: int) -> list[str]:
    """Return the columns of an n-gram of `order`: the words before the last, and the last word w.

    Example:
      >>> columns(3)
      ['c2', 'c1', 'w']
    """
    return [*(f"c{distance}" for distance in range(order - 1, 0, -1)), "w"]


def count_query(order: int) -> str:
    """Return the SQL query that counts the n-grams of `order`. It is the same for every engine."""
    names = ", ".join(columns(order))
    # If the farthest word of a context exists, the nearer words exist too.
    where = f" WHERE c{order - 1} >= 0" if order > 1 else ""
    return (
        f"SELECT {names}, COUNT(*) AS count FROM windows{where} GROUP BY {names} ORDER BY {names}"
    )


def write_windows(
    text: Sequences, order: int, vocab_size: int, path: Path, block: int = BLOCK
) -> None:
    """Write the table `windows` of a text: one row for each position.

    The columns are int32: the word `w`, and the words before it, `c1` (the nearest) ...
    `c{order - 1}`. They are V at the start of a line, and -1 before that. Several machines may
    write files into one folder, each for its own part of the text, if every part is whole lines.

    Args:
      text: the text, or a part of it.
      order: number of words in the longest n-gram.
      vocab_size: V, the number of word ids.
      path: the Parquet file to write.
      block: rows in memory at a time.
    Raises:
      UserError: if pyarrow is not installed.
    """
    pyarrow = import_pyarrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    names = columns(order)
    schema = pyarrow.schema([(name, pyarrow.int32()) for name in names])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(text.words), block):
            rows = _window(text, order, vocab_size, start, min(start + block, len(text.words)))
            writer.write_table(pyarrow.table(dict(zip(names, rows, strict=True)), schema=schema))
            drop_from_memory(*getattr(text.words, "maps", (text.words,)))
    pyarrow.default_memory_pool().release_unused()


def _window(
    text: Sequences, order: int, vocab_size: int, start: int, stop: int
) -> list[np.ndarray]:
    """Return the columns of the rows for the positions [start, stop)."""
    # Contexts of `start` reach back to the word before `first`.
    first = max(0, start - max(order - 2, 0))
    previous = text.previous_in(first, stop)
    is_inside = previous[1:] != vocab_size
    contexts = [previous]
    while len(contexts) < order - 1:
        farther = np.full_like(previous, -1)
        np.copyto(farther[1:], contexts[-1][:-1], where=is_inside)
        contexts.append(farther)
    rows = [context[start - first :] for context in reversed(contexts[: order - 1])]
    return [*rows, text.words[start:stop].astype(np.int32)]


def count_windows(
    windows: Path,
    order: int,
    vocab_size: int,
    memory: int,
    scratch: Path,
    allocate: Allocate,
    engine: Engine = run_duckdb,
    block: int | None = None,
) -> Counts:
    """Count the n-grams of 1 ... `order` words from the Parquet files of `write_windows`.

    Every array equals the array that `count_ngrams` makes.

    Args:
      windows: folder of the Parquet files.
      order: number of words in the longest n-gram.
      vocab_size: V, the number of word ids.
      memory: limit in bytes for the whole process.
      scratch: folder for the rows of the engine, which are removed after each order.
      allocate: allocates the arrays keys-n, counts-n and suffixes-n.
      engine: runs the queries.
      block: rows in memory at a time (None: as `memory` allows).
    Raises:
      SettingError: if no line has `order` tokens, its start included.
      UserError: if the engine is not installed, or needs more memory.
      OSError: if the disk is full.
    """
    block = block or min(BLOCK, max(available(memory) >> 10, 1 << 16))
    base = vocab_size + 1
    tokens = sum(_rows(path) for path in windows.glob("*.parquet"))
    dtype = np.int32 if tokens < 1 << 31 else np.int64
    orders: list[OrderCounts] = []
    for number in range(1, order + 1):
        result = scratch / f"counted-{number}"
        # An engine exceeds its limit by its own book-keeping, so the limit is two thirds.
        engine(count_query(number), windows, result, available(memory) * 2 // 3)
        paths = sorted(result.glob("*.parquet"))
        length = sum(map(_rows, paths))
        if not length:
            raise order_error(order, number - 1)
        if number == 1:
            counts = np.zeros(base, dtype)
            for words, count in _blocks(paths, block):
                counts[words] = count
            orders.append(OrderCounts(np.arange(base), counts, np.empty(0, dtype), vocab_size))
        else:
            arrays = (
                allocate(f"keys-{number}", length, np.int64),
                allocate(f"counts-{number}", length, dtype),
                allocate(f"suffixes-{number}", length, dtype),
            )
            at_line_start = _fill_order(_blocks(paths, block), arrays, orders, base)
            orders.append(OrderCounts(*arrays, at_line_start))
        shutil.rmtree(result)
        # Arrow keeps the memory of its read buffers, but the engine needs it.
        import_pyarrow().default_memory_pool().release_unused()
    return Counts(vocab_size, tuple(orders))


def _rows(path: Path) -> int:
    """Return the number of rows in a Parquet file."""
    return int(import_pyarrow().parquet.read_metadata(path).num_rows)


def _blocks(paths: list[Path], block: int) -> Iterator[list[np.ndarray]]:
    """Yield the columns of Parquet files as arrays of at most `block` rows."""
    for path in paths:
        with import_pyarrow().parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            step = max(1, block // max(groups, default=1))
            # An iteration keeps every row group that it has read, so it reads only a few.
            for first in range(0, len(groups), step):
                numbers = list(range(first, min(first + step, len(groups))))
                for batch in file.iter_batches(block, row_groups=numbers, use_threads=False):
                    yield [column.to_numpy(zero_copy_only=False) for column in batch.columns]


def _fill_order(
    blocks: Iterator[list[np.ndarray]],
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    shorter: list[OrderCounts],
    base: int,
) -> int:
    """Fill the arrays of an order from the rows of the engine.

    The suffix of h w is (the suffix of h) w, so each n-gram costs one binary search.

    Args:
      blocks: columns of the n-grams, sorted by their words, and their counts.
      arrays: the keys, counts and suffixes to fill.
      shorter: the counts of all shorter orders.
      base: V + 1.
    Returns:
      The first id of an n-gram that begins at the start of a line.
    """
    keys, counts, suffixes = arrays
    below = shorter[-1]
    start, at_line_start = 0, 0
    for *context, words, block_counts in blocks:
        block = slice(start, start + len(words))
        prefixes = _context_ids(context, shorter, base)
        keys[block] = prefixes * base + words
        if not (np.diff(keys[max(start - 1, 0) : block.stop]) > 0).all():
            raise RuntimeError(
                "the rows of the engine are not in the order that the query asks for"
            )
        counts[block] = block_counts
        if len(context) == 1:
            suffixes[block] = words
        else:
            wanted = below.suffixes[prefixes].astype(np.int64) * base + words
            # Searches in sorted order find most of what they read in the CPU cache.
            by_key = np.argsort(wanted)
            suffixes[start + by_key] = np.searchsorted(below.keys, wanted[by_key])
        at_line_start += int(np.count_nonzero(context[0] != base - 1))
        start = block.stop
        drop_from_memory(*arrays, below.suffixes, *(order.keys for order in shorter))
    return at_line_start


def _context_ids(context: list[np.ndarray], shorter: list[OrderCounts], base: int) -> np.ndarray:
    """Return the ids of contexts, int64 [rows], from the columns of their words in sorted order."""
    length = len(context[0])
    is_first = np.ones(length, bool)
    is_first[1:] = np.any([word[1:] != word[:-1] for word in context], axis=0)
    firsts = np.flatnonzero(is_first)
    ids = context[0][firsts].astype(np.int64)
    for order, word in zip(shorter[1:], context[1:], strict=True):
        ids = np.searchsorted(order.keys, ids * base + word[firsts])
    return np.repeat(ids, np.diff(firsts, append=length))
