"""Sources of text: a byte range of a UTF-8 file, or a string. Lines keep their line breaks.

A line ends at LF, CR LF or CR (`decode_lines`).
"""

import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jaxlm.data.compression import open_bytes, reading_errors
from jaxlm.data.encodings import HEAD_BYTES, seems_to_be
from jaxlm.errors import SettingError, UserError

BOM = b"\xef\xbb\xbf"


def decode_lines(raw: bytes, position: int, path: Path, exact: bool = False) -> list[str]:
    """Return bytes that end at a line feed, or at the end of the file, as lines of text.

    A line ends at LF, CR LF, or CR, and each becomes LF. Other separators of Unicode, such as
    U+0085 and U+2028, end no line. A byte order mark at position 0 is dropped.

    Args:
      raw: the bytes, with their line break.
      position: offset in bytes of `raw` in the file.
      path: the file, for the error.
      exact: whether to keep every byte: line breaks and marks stay, and a byte that is not UTF-8
        becomes a surrogate (PEP 383).
    Raises:
      UserError: if the bytes are not UTF-8. The message says where, and what they seem to be.

    Example:
      >>> decode_lines(b"a b\\r\\n", position=0, path=Path("text.txt"))
      ['a b\\n']
      >>> decode_lines(b"a\\rb", position=4, path=Path("text.txt"))
      ['a\\n', 'b']
    """
    if exact:
        return [raw.decode("utf-8", "surrogateescape")]
    text = raw[len(BOM) :] if position == 0 and raw.startswith(BOM) else raw
    try:
        line = text.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = position + len(raw) - len(text) + error.start
        raise not_utf8(path, offset, text[error.start], error.reason) from None
    return [line] if "\r" not in line else list(io.StringIO(line, newline=None))


def not_utf8(path: Path, offset: int, byte: int, reason: str) -> UserError:
    """Return the error for a file that is not UTF-8, with what it seems to be.

    Args:
      path: the file.
      offset: offset of the first byte that is not UTF-8 in the file, after decompression.
      byte: that byte.
      reason: why it is not UTF-8.
    """
    start = max(0, offset - HEAD_BYTES // 2)
    with reading_errors(path), open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
        file.seek(start)
        around = file.read(HEAD_BYTES)
    place = offset - start
    # Bytes below 0x40 are in no longer character of the usual encodings: a cut there is safe.
    safe = [match.start() for match in re.finditer(rb"[\x00-\x3f]", around)]
    line_start = max(around.rfind(mark, 0, place) for mark in (b"\n", b"\r")) + 1
    before = [at + 1 for at in safe if line_start <= at < place - 20]
    shown = around[before[-1] if before else line_start :][:120]
    first = safe[0] + 1 if start and safe and safe[0] < place else 0
    last = safe[-1] + 1 if len(around) == HEAD_BYTES and safe and safe[-1] > place else None
    return UserError(
        f"{path} is not UTF-8: byte 0x{byte:02x} at offset {offset} ({reason}). "
        f"{seems_to_be(head, around[first:last], shown)}"
    )


class Source(Protocol):
    """A text that can be read any number of times."""

    @property
    def size(self) -> int:
        """The number of bytes of the text as stored."""

    def lines(self) -> Iterator[str]:
        """Yield the lines, each with LF as its line break. A byte order mark is dropped."""

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes as stored, in hexadecimal."""


@dataclass(frozen=True)
class EmbeddedText:
    """A text in memory. With `exact`, its characters are kept as they are (`decode_lines`).

    Example:
      >>> list(EmbeddedText("a b\\r\\nc").lines())
      ['a b\\n', 'c']
    """

    text: str
    exact: bool = False

    @property
    def size(self) -> int:
        return len(self._bytes())

    def lines(self) -> Iterator[str]:
        # Like TextFile, StringIO does not end lines at other characters, such as U+2028.
        # str.splitlines does.
        if self.exact:
            return iter(io.StringIO(self.text, newline="\n"))
        return iter(io.StringIO(self.text.removeprefix("\ufeff"), newline=None))

    def sha256(self) -> str:
        return hashlib.sha256(self._bytes()).hexdigest()

    def _bytes(self) -> bytes:
        return self.text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class TextFile:
    """The bytes [start, stop) of a UTF-8 file; with `exact`, of any file (`decode_lines`)."""

    path: Path
    start: int = 0
    stop: int | None = None
    exact: bool = False

    @property
    def end(self) -> int:
        """`stop`, or the size of the file if `stop` is None."""
        return os.path.getsize(self.path) if self.stop is None else self.stop

    @property
    def size(self) -> int:
        return self.end - self.start

    def lines(self) -> Iterator[str]:
        position, end = self.start, self.end
        with open(self.path, "rb") as file:
            file.seek(position)
            for raw in file:
                raw = raw[: end - position]
                if not raw:
                    return
                yield from decode_lines(raw, position, self.path, self.exact)
                position += len(raw)

    def sha256(self) -> str:
        digest, left = hashlib.sha256(), self.size
        with open(self.path, "rb") as file:
            file.seek(self.start)
            while block := file.read(min(1 << 20, left)):
                digest.update(block)
                left -= len(block)
        return digest.hexdigest()


def split_by_fractions(
    path: Path, fractions: Sequence[float], at_lines: bool, exact: bool = False
) -> list[TextFile]:
    """Cut a file into consecutive parts.

    Args:
      path: a UTF-8 file, or any file with `exact`.
      fractions: one to three shares of the bytes, which sum to 1; the first is positive.
      at_lines: whether a cut moves to the next line break. Else it moves to the next character, and
        never into a CRLF.
      exact: as for TextFile.
    Raises:
      SettingError: for bad fractions.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "text.txt"
      ...     _ = path.write_bytes(b"abc\\n" * 10)
      ...     [part.size for part in split_by_fractions(path, (0.83, 0.17), at_lines=True)]
      [36, 4]
    """
    with open(path, "rb") as file:
        bounds = cuts(file, os.path.getsize(path), fractions, at_lines)
    return [TextFile(path, start, stop, exact) for start, stop in itertools.pairwise(bounds)]


def cuts(file: Any, size: int, fractions: Sequence[float], at_lines: bool) -> list[int]:
    """Return the offsets in bytes where the parts of a file begin, and `size`.

    Args:
      file: the file, open for reading, with `peek` (io.BufferedReader).
      size: its size in bytes.
      fractions: as for `split_by_fractions`.
      at_lines: as for `split_by_fractions`.
    Raises:
      SettingError: for bad fractions.
    """
    if (
        not fractions
        or len(fractions) > 3
        or any(fraction < 0 for fraction in fractions)
        or not 0.999 < sum(fractions) < 1.001
        or fractions[0] <= 0
    ):
        raise SettingError(
            "fractions",
            " ".join(map(str, fractions)),
            "give the shares of train, valid and test, which sum to 1, for instance 0.9 0.05 0.05",
        )
    share, bounds = 0.0, [0]
    for fraction in fractions[:-1]:
        share += fraction
        # The small term keeps a rounding error of `share` from moving the cut one byte back.
        offset = int(share * size + 1e-6)
        file.seek(offset)
        if at_lines:
            file.seek(max(offset - 1, 0))
            read_line(file)
            offset = file.tell()
        else:
            start = offset
            while (byte := file.read(1)) and byte[0] & 0xC0 == 0x80 and offset < start + 4:
                offset += 1
            if offset == start + 4:
                # Not UTF-8, whose characters are of four bytes at most: bytes of any kind.
                offset = start
            if byte == b"\n" and offset:
                file.seek(offset - 1)
                offset += file.read(1) == b"\r"
        bounds.append(min(max(offset, bounds[-1]), size))
    return [*bounds, size]


def read_line(file: Any) -> bytes:
    """Return the bytes of a file up to the end of the line: LF, CR LF or CR, or the file's end.

    `file` is a file with `peek`, such as io.BufferedReader.
    """
    parts = []
    while ahead := file.peek(1):
        end = re.search(rb"\r\n|\r|\n", ahead)
        parts.append(file.read(end.end() if end else len(ahead)))
        if end:
            if parts[-1].endswith(b"\r") and file.peek(1)[:1] == b"\n":
                parts.append(file.read(1))
            break
    return b"".join(parts)
