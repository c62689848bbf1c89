"""Counting n-grams that do not fit in memory: one GROUP BY an order, by an engine that spills.

Every position of the text becomes a row of Parquet files, a word and the words before it. The
engine counts and sorts; its rows are read in blocks, and become the very arrays of `count_ngrams`,
in files. Sorted by their words, n-grams are sorted by their keys too: see `jaxlm.ngrams`.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.errors import UserError, choose
from jaxlm.ngrams.chunked import release
from jaxlm.ngrams.counts import Counts, OrderCounts, Sequences, count_ngrams, no_such_order
from jaxlm.ngrams.engines import ENGINES, Engine, arrow, run_duckdb
from jaxlm.ngrams.tables import Allocate, in_folder, in_memory

# Most rows that are worked on at a time, about 200 bytes each.
BLOCK = 1 << 20
# What Python and its libraries take themselves, JAX among them.
PYTHON = 250_000_000
UNITS = {"": 1, **{f"{p}B": 1000**n for n, p in enumerate(("", "K", "M", "G", "T"))}}
UNITS |= {f"{p}IB": 1024**n for n, p in enumerate(("K", "M", "G", "T"), start=1)}


def parse_memory(text: str) -> int:
    """Bytes of "2GB", "500 MB", "1.5GiB" or "2000000000". Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)", text.strip())
    if not found or found[2].upper() not in UNITS or not float(found[1]):
        raise UserError(f"--memory {text!r} is no amount of memory: write 2GB, 500MB or 1.5GiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def available(memory: int) -> int:
    """What of `memory`, a limit for the whole process, is left for counting: all but what Python
    and its libraries take. Where they alone take more, nothing can keep the limit; then, half.
    """
    return memory - min(PYTHON, memory // 2)


def bytes_needed(tokens: int, order: int, vocab_size: int) -> int:
    """An upper bound of what counting in memory, and any smoothing after it, takes.

    A text of T words has at most T n-grams of an order. Of each n-gram, a key, a count, a suffix, a
    probability and a backoff stay; of each word of the text, the sort of an order has four ids and
    places, keys and their order at a time.
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
    """Counts every n-gram of 1 ... `order` words within `memory` bytes (None: as many as it takes),
    and gives what a smoothing is to allocate its arrays with, to stay within them too.

    What fits is counted in memory. Else the `engine` counts, and arrays are files: those that a
    model keeps in `results`, where `Tables.save` leaves them, and all others in `scratch`, which
    the caller removes after smoothing.

    Raises UserError if no line has `order` words, for an unknown engine or one that is not
    installed, and if `memory` is too little even for the engine; OSError if the disk is full.
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
    """Allocates the arrays that a model keeps as files of `results`, all others of `scratch`."""
    keep, throw_away = in_folder(results), in_folder(scratch)

    def allocate(name: str, length: int, dtype: type) -> np.ndarray:
        # The empty context, which backoffs-0 would be of, is always listed.
        kept = re.fullmatch(r"(keys|probabilities|backoffs)-[1-9]", name)
        return (keep if kept else throw_away)(name, length, dtype)

    return allocate


def columns(order: int) -> list[str]:
    """The columns of an n-gram of `order`: c2 and c1, the words before, and w, for order 3."""
    return [*(f"c{distance}" for distance in range(order - 1, 0, -1)), "w"]


def count_query(order: int) -> str:
    """The SQL that counts the n-grams of `order`: the same for every engine."""
    names = ", ".join(columns(order))
    # Contexts grow from the word backwards, so the farthest says whether all are there.
    where = f" WHERE c{order - 1} >= 0" if order > 1 else ""
    return (
        f"SELECT {names}, COUNT(*) AS count FROM windows{where} GROUP BY {names} ORDER BY {names}"
    )


def write_windows(
    text: Sequences, order: int, vocab_size: int, path: Path, block: int = BLOCK
) -> None:
    """Writes the table `windows` of a text, a row a position: the word `w`, int32, and the words
    before it, `c1` (the nearest) ... `c{order - 1}`; V at a line's start, and -1 before it.

    Texts of whole lines may be written apart, by many machines, into one folder.
    """
    pyarrow = arrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    names = columns(order)
    schema = pyarrow.schema([(name, pyarrow.int32()) for name in names])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(text.words), block):
            rows = _window(text, order, vocab_size, start, min(start + block, len(text.words)))
            writer.write_table(pyarrow.table(dict(zip(names, rows, strict=True)), schema=schema))
            release(text.words)
    pyarrow.default_memory_pool().release_unused()


def _window(
    text: Sequences, order: int, vocab_size: int, start: int, stop: int
) -> list[np.ndarray]:
    """The columns of the rows [start, stop)."""
    # The farthest word before `start` is seen from the positions between.
    first = max(0, start - max(order - 2, 0))
    before = text.before_in(first, stop)
    inside = before[1:] != vocab_size
    contexts = [before]
    while len(contexts) < order - 1:
        farther = np.full_like(before, -1)
        np.copyto(farther[1:], contexts[-1][:-1], where=inside)
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
    """Counts the n-grams of 1 ... `order` words of the texts in the folder `windows`.

    The result equals `count_ngrams`'s, array by array. The arrays keys-n, counts-n and suffixes-n
    are allocated; the engine's rows are removed order by order. Raises what `count_within` does.
    """
    block = block or min(BLOCK, max(available(memory) >> 10, 1 << 16))
    base = vocab_size + 1
    tokens = sum(_rows(path) for path in windows.glob("*.parquet"))
    dtype = np.int32 if tokens < 1 << 31 else np.int64
    orders: list[OrderCounts] = []
    for number in range(1, order + 1):
        result = scratch / f"counted-{number}"
        # An engine's own book-keeping comes on top of what it is told to take.
        engine(count_query(number), windows, result, available(memory) * 2 // 3)
        paths = sorted(result.glob("*.parquet"))
        length = sum(map(_rows, paths))
        if not length:
            raise no_such_order(order, number - 1)
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
            at_line_start = _index(_blocks(paths, block), arrays, orders, base)
            orders.append(OrderCounts(*arrays, at_line_start))
        shutil.rmtree(result)
        # Arrow would keep what it has read into; the engine needs the room.
        arrow().default_memory_pool().release_unused()
    return Counts(vocab_size, tuple(orders))


def _rows(path: Path) -> int:
    return int(arrow().parquet.read_metadata(path).num_rows)


def _blocks(paths: list[Path], block: int) -> Iterator[list[np.ndarray]]:
    """The columns of Parquet files, as arrays of `block` rows or fewer."""
    for path in paths:
        with arrow().parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            together = max(1, block // max(groups, default=1))
            # Until its end, an iteration keeps all row groups it has been at, so each is short.
            for first in range(0, len(groups), together):
                some = list(range(first, min(first + together, len(groups))))
                for batch in file.iter_batches(block, row_groups=some, use_threads=False):
                    yield [column.to_numpy(zero_copy_only=False) for column in batch.columns]


def _index(
    blocks: Iterator[list[np.ndarray]],
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    shorter: list[OrderCounts],
    base: int,
) -> int:
    """Fills keys, counts and suffixes with an order's n-grams, sorted by their words, and gives
    the id of the first that begins at a line's start.

    The suffix of h w is the suffix of h, and w: one search an n-gram.
    """
    own_keys, own_counts, own_suffixes = arrays
    below = shorter[-1]
    start, at_line_start = 0, 0
    for *context, words, counts in blocks:
        piece = slice(start, start + len(words))
        prefixes = _find(context, shorter, base)
        own_keys[piece] = prefixes * base + words
        if not (np.diff(own_keys[max(start - 1, 0) : piece.stop]) > 0).all():
            raise RuntimeError("an engine's rows are not in the order that the query asks for")
        own_counts[piece] = counts
        if len(context) == 1:
            own_suffixes[piece] = words
        else:
            wanted = below.suffixes[prefixes].astype(np.int64) * base + words
            # In sorted order a search begins where the last one ended, in memory that is at hand.
            by_key = np.argsort(wanted)
            own_suffixes[start + by_key] = np.searchsorted(below.keys, wanted[by_key])
        at_line_start += int(np.count_nonzero(context[0] != base - 1))
        start = piece.stop
        release(*arrays, below.suffixes, *(order.keys for order in shorter))
    return at_line_start


def _find(context: list[np.ndarray], shorter: list[OrderCounts], base: int) -> np.ndarray:
    """The ids of contexts, given by their words in sorted order."""
    length = len(context[0])
    is_first = np.ones(length, bool)
    is_first[1:] = np.any([word[1:] != word[:-1] for word in context], axis=0)
    firsts = np.flatnonzero(is_first)
    ids = context[0][firsts].astype(np.int64)
    for order, word in zip(shorter[1:], context[1:], strict=True):
        ids = np.searchsorted(order.keys, ids * base + word[firsts])
    return np.repeat(ids, np.diff(firsts, append=length))
