"""The text of an ARPA file, cut into its sections; a fault is named by its line. The format is
described in `jaxlm.interop.arpa`.
"""

import codecs
import contextlib
import gzip
import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, cast

import numpy as np

from jaxlm.errors import UserError

LOG_ZERO = -99.0
MAX_LOG_BACKOFF = 99.0
# Lines are cut into columns in blocks of this many: the garbage collector walks over every list
# that is alive again and again, which with blocks of 1 << 16 takes as long as all the rest.
BLOCK = 1 << 10
# KenLM's, narrower than Python's: other white space may be part of a word.
WHITE_SPACE = re.compile(rb"[ \t\r\n]+")


@contextlib.contextmanager
def open_maybe_gzip(path: Path) -> Iterator[IO[bytes]]:
    """Opens for reading; gzip is recognised by its first bytes."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        yield cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=file)) if packed else file)


class Lines:
    """The lines of a file, and how many of them were taken."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.number = path, 0
        self._file = iter(file)

    def take(self, count: int) -> list[bytes]:
        """The next `count` lines, fewer at the end of the file."""
        block: list[bytes] = []
        try:
            block.extend(itertools.islice(self._file, count))
        except (EOFError, gzip.BadGzipFile, zlib.error):
            self.fail(self.number + len(block) + 1, "the gzip data is cut off or damaged here")
        self.number += len(block)
        return block

    def next(self) -> bytes | None:
        """The next line that is not blank, without white space around it; None at the end."""
        while block := self.take(1):
            if line := block[0].strip():
                return line
        return None

    def fail(self, number: int, what: str) -> NoReturn:
        """Raises the error of a line."""
        raise UserError(f"{self.path}, line {number}: {what}")

    def expect(self, marker: str, instead_of_n_grams: str = "") -> None:
        """Takes the line `marker`, or fails; `instead_of_n_grams`: what another line means."""
        line = self.next()
        if line is None:
            self.fail(self.number + 1, f"the file ends here: expected {marker}; is it whole?")
        if line != marker.encode():
            meaning = "" if line.startswith(b"\\") else instead_of_n_grams
            self.fail(self.number, f"{meaning}expected {marker}, found {shown(line)}")


def shown(text: bytes) -> str:
    """A piece of a file, for an error."""
    return repr(text[:60].decode("utf-8", "replace"))


class Section(NamedTuple):
    """The n-grams of one order in the file's order. probabilities, backoffs: float64 [number];
    words: int32 [number, order], a word being its place among the 1-grams; lines: int64 [number].
    """

    probabilities: np.ndarray
    words: np.ndarray
    backoffs: np.ndarray
    lines: np.ndarray


def read_sections(lines: Lines, index: dict[bytes, int]) -> list[Section]:
    """The sections of orders 1 ... n. Enters the words of the 1-grams into the index."""
    counts, found = _read_header(lines), ""
    sections = []
    for order, count in enumerate(counts, start=1):
        if order > 1:
            lines.expect(f"\\{order}-grams:", found)
        sections.append(_read_section(lines, order, count, index))
        if order == 1:
            _check_once(lines, sections[0], list(index))
        found = f"more {order}-grams than the {count} of the header: "
    lines.expect("\\end\\", found)
    lines.next()  # at the end of a gzip file its checksum is compared
    return sections


def _check_once(lines: Lines, unigrams: Section, words: list[bytes]) -> None:
    """Fails at a word that is listed a second time."""
    again = np.flatnonzero(unigrams.words[:, 0] != np.arange(len(unigrams.words)))
    if len(again):
        first = unigrams.words[again[0], 0]
        what = f"the 1-gram {shown(words[first])} is on line {unigrams.lines[first]} already"
        lines.fail(int(unigrams.lines[again[0]]), what)


def _read_header(lines: Lines) -> list[int]:
    """The number of n-grams of each order; takes the lines up to that of the 1-grams."""
    line = lines.next()
    if line is None:
        lines.fail(1, "the file is empty: expected an ARPA file")
    line = line.removeprefix(codecs.BOM_UTF8)
    while line != b"\\data\\":
        line = lines.next()
        if line is None:
            lines.fail(lines.number + 1, "no line is \\data\\: this is not an ARPA file")
    counts: list[int] = []
    while (line := lines.next()) is not None and (line != b"\\1-grams:" or not counts):
        match = re.fullmatch(rb"ngram\s+(\S+?)\s*=\s*(\S+)", line)
        wanted = f"ngram {len(counts) + 1}=COUNT"
        if not match or match[1] != str(len(counts) + 1).encode():
            wanted += " or \\1-grams:" if counts else ""
            lines.fail(lines.number, f"expected {wanted}, found {shown(line)}")
        # No more digits than an int64 holds.
        if not re.fullmatch(rb"\d{1,18}", match[2]):
            wanted += ", COUNT a whole number of 0 or more"
            lines.fail(lines.number, f"expected {wanted}, found {shown(match[2])}")
        counts.append(int(match[2]))
    if line is None:
        lines.fail(lines.number + 1, "the file ends here: expected \\1-grams:; is it whole?")
    return counts


def _read_section(lines: Lines, order: int, count: int, index: dict[bytes, int]) -> Section:
    """Reads `count` n-grams; the 1-grams enter their words into the index."""

    def enter(word: bytes) -> int:
        return index.setdefault(word, len(index))

    find = enter if order == 1 else index.__getitem__
    blocks = [_block([], [], order, find)]
    size = 0
    while size < count:
        start = lines.number + 1
        taken = lines.take(min(BLOCK, count - size))
        if not taken:
            lines.fail(start, f"the file ends after {size} of {count} {order}-grams; is it whole?")
        rows = list(map(bytes.split, taken))
        numbers = [number for number, row in enumerate(rows, start) if row]
        try:
            block = _block([row for row in rows if row], numbers, order, find)
        except (ValueError, KeyError):
            # Something is wrong, or a word has white space that only Python takes for it.
            rows = [_row(lines, number, taken[number - start], order, find) for number in numbers]
            block = _block(rows, numbers, order, find)
        blocks.append(block)
        size += len(numbers)
    return Section(*map(np.concatenate, zip(*blocks, strict=True)))


def _block(
    rows: list[list[bytes]], lines: list[int], order: int, find: Callable[[bytes], int]
) -> Section:
    """The n-grams of lines cut into columns; ValueError or KeyError if anything is wrong."""
    size = len(rows)
    for row in rows:
        if len(row) == order + 1:
            row.append(b"0")
    columns = list(zip(*rows, strict=True)) or [()] * (order + 2)
    logs, *words, backoffs = columns
    if len(words) != order:
        raise ValueError
    probabilities = _powers(np.fromiter(map(float, logs), np.float64, size), 0)
    backoff = _powers(np.fromiter(map(float, backoffs), np.float64, size), MAX_LOG_BACKOFF)
    ids = np.empty((size, order), np.int32)
    for place, column in enumerate(words):
        ids[:, place] = np.fromiter(map(find, column), np.int32, size)
    return Section(probabilities, ids, backoff, np.array(lines, np.int64))


def _powers(logs: np.ndarray, highest: float) -> np.ndarray:
    if not (logs <= highest).all():  # which a NaN is not
        raise ValueError
    return np.where(logs <= LOG_ZERO, 0.0, 10.0**logs)


def _row(
    lines: Lines, number: int, line: bytes, order: int, find: Callable[[bytes], int]
) -> list[bytes]:
    """The columns of one line, or the error that says what is wrong with it."""
    row = WHITE_SPACE.split(line.strip(b" \t\r\n"))
    if row[0].startswith(b"\\"):
        found = shown(line.strip())
        lines.fail(number, f"fewer {order}-grams than the header says: expected one, found {found}")
    if len(row) not in (order + 1, order + 2):
        words = f"{order} word{'s' * (order > 1)}"
        wanted = f"a log-probability, {words} and at most a log-backoff"
        lines.fail(number, f"expected {wanted}, found {len(row)} columns: {shown(line.strip())}")
    for text, what, highest in (
        (row[0], "log-probability", 0.0),
        (row[order + 1] if len(row) > order + 1 else b"0", "log-backoff", MAX_LOG_BACKOFF),
    ):
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not value <= highest:
            wanted = f"a {what} of {highest:g} or less"
            lines.fail(number, f"expected {wanted}, found {shown(text)}")
    for word in row[1 : order + 1]:
        try:
            find(word)
        except KeyError:
            lines.fail(number, f"the word {shown(word)} is not among the 1-grams")
    return row
