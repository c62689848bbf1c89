"""Parse the text of an ARPA file into sections. Every error names the line.

`jaxlm.interop.arpa` describes the format.
"""

import codecs
import gzip
import itertools
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np

from jaxlm.errors import UserError
from jaxlm.ngrams.tables import MAX_ORDER

LOG_ZERO = -99.0
MAX_LOG_BACKOFF = 99.0
# The number of lines that are split into columns at a time. The garbage collector visits every live
# list again and again: with blocks of 1 << 16 lines that takes as long as everything else.
BLOCK = 1 << 10
# The beginning of KenLM's own binary files.
KENLM_BINARY = b"mmap lm http://kheafield.com/code"
# The word "data" in UTF-16, in either order of bytes.
IN_UTF16 = b"d\0a\0t\0a"
# KenLM's white space. Python has more, but other characters may be part of a word.
WHITE_SPACE = re.compile(rb"[ \t\r\n]+")


class Lines:
    """A reader of lines. `number` is the number of lines read so far."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.number = path, 0
        self._file = iter(file)

    def take(self, count: int) -> list[bytes]:
        """Return the next `count` lines, or fewer at the end of the file.

        Raises:
          UserError: if the gzip data is damaged.
        """
        block: list[bytes] = []
        try:
            block.extend(itertools.islice(self._file, count))
        except (EOFError, gzip.BadGzipFile, zlib.error):
            self.fail(self.number + len(block) + 1, "the gzip data is cut off or damaged here")
        self.number += len(block)
        return block

    def next(self) -> bytes | None:
        """Return the next line that is not blank, stripped of white space; None at the end."""
        while block := self.take(1):
            if line := block[0].strip():
                return line
        return None

    def fail(self, number: int, message: str) -> NoReturn:
        """Raise UserError with the file, the line `number` and the message."""
        raise UserError(f"{self.path}, line {number}: {message}")

    def expect(self, marker: str, if_n_gram: str = "") -> None:
        """Read the line `marker`.

        Args:
          marker: a line such as \\2-grams:.
          if_n_gram: beginning of the error message if the line is an n-gram instead.
        Raises:
          UserError: if the next line that is not blank is another line.
        """
        line = self.next()
        if line is None:
            self.fail(self.number + 1, f"the file ends here: expected {marker}; is it whole?")
        if line != marker.encode():
            cause = "" if line.startswith(b"\\") else if_n_gram
            self.fail(self.number, f"{cause}expected {marker}, found {excerpt(line)}")


def excerpt(text: bytes) -> str:
    """Return the first 60 bytes of `text` in quotes, for an error."""
    return repr(text[:60].decode("utf-8", "replace"))


class Section(NamedTuple):
    """The N n-grams of one order, in the order of the file.

    Attributes:
      probabilities: float64 [N].
      words: int32 [N, order]; a word is its place among the 1-grams.
      backoffs: float64 [N], 1 where the file has none.
      lines: the number of the line of each n-gram, int64 [N].
    """

    probabilities: np.ndarray
    words: np.ndarray
    backoffs: np.ndarray
    lines: np.ndarray


def read_sections(lines: Lines, index: dict[bytes, int]) -> list[Section]:
    """Return the sections of orders 1 ... n.

    `index` is empty. It is filled with each word and its place among the 1-grams.

    Raises:
      UserError: if a line is not in the format.
    """
    counts, too_many = _read_header(lines), ""
    sections = []
    for order, count in enumerate(counts, start=1):
        if order > 1:
            lines.expect(f"\\{order}-grams:", too_many)
        sections.append(_read_section(lines, order, count, index))
        if order == 1:
            _check_unique(lines, sections[0], list(index))
        too_many = f"more {order}-grams than the {count} of the header: "
    lines.expect("\\end\\", too_many)
    lines.next()  # reaching the end of a gzip file compares its checksum
    return sections


def _check_unique(lines: Lines, unigrams: Section, words: list[bytes]) -> None:
    """Raise UserError if a word is listed twice."""
    repeated = np.flatnonzero(unigrams.words[:, 0] != np.arange(len(unigrams.words)))
    if len(repeated):
        first = unigrams.words[repeated[0], 0]
        message = f"the 1-gram {excerpt(words[first])} is on line {unigrams.lines[first]} already"
        lines.fail(int(unigrams.lines[repeated[0]]), message)


def _read_header(lines: Lines) -> list[int]:
    """Read the lines up to \\1-grams: and return the number of n-grams of each order."""
    line = lines.next()
    if line is None:
        lines.fail(1, "the file is empty: expected an ARPA file")
    line = line.removeprefix(codecs.BOM_UTF8)
    if line.startswith(KENLM_BINARY):
        lines.fail(1, "this is a binary file of KenLM: give the ARPA file that it was built from")
    while line != b"\\data\\":
        if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or IN_UTF16 in line:
            lines.fail(
                lines.number, "this is not an ARPA file in UTF-8, but in UTF-16: convert it first"
            )
        line = lines.next()
        if line is None:
            lines.fail(lines.number + 1, "no line is \\data\\: this is not an ARPA file")
    counts: list[int] = []
    while (line := lines.next()) is not None and (line != b"\\1-grams:" or not counts):
        match = re.fullmatch(rb"ngram\s+(\S+?)\s*=\s*(\S+)", line)
        expected = f"ngram {len(counts) + 1}=COUNT"
        if not match or match[1] != str(len(counts) + 1).encode():
            expected += " or \\1-grams:" if counts else ""
            lines.fail(lines.number, f"expected {expected}, found {excerpt(line)}")
        # A number of 18 digits fits in an int64.
        if not re.fullmatch(rb"\d{1,18}", match[2]):
            expected += ", COUNT a whole number of 0 or more"
            lines.fail(lines.number, f"expected {expected}, found {excerpt(match[2])}")
        counts.append(int(match[2]))
        if len(counts) > MAX_ORDER:
            lines.fail(lines.number, f"n-grams of order {len(counts)}: at most {MAX_ORDER} is read")
    if line is None:
        lines.fail(lines.number + 1, "the file ends here: expected \\1-grams:; is it whole?")
    return counts


def _read_section(lines: Lines, order: int, count: int, index: dict[bytes, int]) -> Section:
    """Read `count` n-grams of `order`. If `order` is 1, their words are added to `index`.

    Raises:
      UserError: if a line is not in the format.
    """

    def add_word(word: bytes) -> int:
        return index.setdefault(word, len(index))

    word_id = add_word if order == 1 else index.__getitem__
    blocks = [_block([], [], order, word_id)]
    size = 0
    while size < count:
        start = lines.number + 1
        block_lines = lines.take(min(BLOCK, count - size))
        if not block_lines:
            lines.fail(start, f"the file ends after {size} of {count} {order}-grams; is it whole?")
        rows = list(map(bytes.split, block_lines))
        numbers = [number for number, row in enumerate(rows, start) if row]
        try:
            block = _block([row for row in rows if row], numbers, order, word_id)
        except (ValueError, KeyError):
            # A line is wrong, or a word has characters that only Python regards as white space.
            rows = [
                _row(lines, number, block_lines[number - start], order, word_id)
                for number in numbers
            ]
            block = _block(rows, numbers, order, word_id)
        blocks.append(block)
        size += len(numbers)
    return Section(*map(np.concatenate, zip(*blocks, strict=True)))


def _block(
    rows: list[list[bytes]], lines: list[int], order: int, word_id: Callable[[bytes], int]
) -> Section:
    """Return the n-grams of some lines.

    Args:
      rows: the columns of each line.
      lines: the number of each line.
      order: number of words in an n-gram.
      word_id: returns the id of a word, or raises KeyError.
    Raises:
      ValueError or KeyError: if a line is wrong.
    """
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
        ids[:, place] = np.fromiter(map(word_id, column), np.int32, size)
    return Section(probabilities, ids, backoff, np.array(lines, np.int64))


def _powers(logs: np.ndarray, highest: float) -> np.ndarray:
    """Return 10 ** logs. Raise ValueError if a logarithm is above `highest` or not a number."""
    if not (logs <= highest).all():
        raise ValueError
    return np.where(logs <= LOG_ZERO, 0.0, 10.0**logs)


def _row(
    lines: Lines, number: int, line: bytes, order: int, word_id: Callable[[bytes], int]
) -> list[bytes]:
    """Return the columns of one line.

    Args:
      lines: the file, for its errors.
      number: the number of the line.
      line: the line.
      order: number of words in an n-gram.
      word_id: returns the id of a word, or raises KeyError.
    Raises:
      UserError: if the line is wrong.
    """
    row = WHITE_SPACE.split(line.strip(b" \t\r\n"))
    if row[0].startswith(b"\\"):
        found = excerpt(line.strip())
        lines.fail(
            number, f"fewer {order}-grams than the header says: expected another, found {found}"
        )
    if len(row) not in (order + 1, order + 2):
        words = f"{order} word{'s' * (order > 1)}"
        expected = f"a log-probability, {words} and at most a log-backoff"
        columns = f"{len(row)} columns: {excerpt(line.strip())}"
        lines.fail(number, f"expected {expected}, found {columns}")
    for text, name, highest in (
        (row[0], "log-probability", 0.0),
        (row[order + 1] if len(row) > order + 1 else b"0", "log-backoff", MAX_LOG_BACKOFF),
    ):
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not value <= highest:
            lines.fail(number, f"expected a {name} of {highest:g} or less, found {excerpt(text)}")
    for word in row[1 : order + 1]:
        try:
            word_id(word)
        except KeyError:
            lines.fail(number, f"the word {excerpt(word)} is not among the 1-grams")
    return row
