"""Sources of text: a byte range of a UTF-8 file, or a string. Lines keep their line breaks."""

import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from jaxlm.errors import SettingError, UserError

BOM = b"\xef\xbb\xbf"


def decode_line(raw: bytes, position: int, path: Path) -> str:
    """Return a line as text. CRLF becomes LF; a byte order mark at position 0 is dropped.

    Args:
      raw: the bytes of the line, with its line break.
      position: offset in bytes of the line in the file.
      path: the file, for the error.
    Raises:
      UserError: if the bytes are not UTF-8. The message says where.

    Example:
      >>> decode_line(b"a b\\r\\n", position=0, path=Path("text.txt"))
      'a b\\n'
    """
    text = raw[len(BOM) :] if position == 0 and raw.startswith(BOM) else raw
    try:
        line = text.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = position + len(raw) - len(text) + error.start
        raise UserError(
            f"{path} is not UTF-8: byte 0x{text[error.start]:02x} at offset {offset} "
            f"({error.reason}). Convert it first, for instance: iconv -f GB18030 -t UTF-8"
        ) from None
    return line[:-2] + "\n" if line.endswith("\r\n") else line


class Source(Protocol):
    """A text that can be read any number of times."""

    @property
    def size(self) -> int:
        """The number of bytes of the text as stored."""

    def lines(self) -> Iterator[str]:
        """Yield the lines with their line breaks. CRLF becomes LF; a byte order mark is dropped."""

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes as stored, in hexadecimal."""


@dataclass(frozen=True)
class EmbeddedText:
    """A text in memory.

    Example:
      >>> list(EmbeddedText("a b\\r\\nc").lines())
      ['a b\\n', 'c']
    """

    text: str

    @property
    def size(self) -> int:
        return len(self.text.encode("utf-8"))

    def lines(self) -> Iterator[str]:
        # Like TextFile, StringIO ends lines only at line feeds. str.splitlines also ends them at
        # other characters, such as U+2028.
        text = self.text.removeprefix("\ufeff").replace("\r\n", "\n")
        return iter(io.StringIO(text, newline="\n"))

    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class TextFile:
    """The bytes [start, stop) of a UTF-8 file."""

    path: Path
    start: int = 0
    stop: int | None = None

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
                yield decode_line(raw, position, self.path)
                position += len(raw)

    def sha256(self) -> str:
        digest, left = hashlib.sha256(), self.size
        with open(self.path, "rb") as file:
            file.seek(self.start)
            while block := file.read(min(1 << 20, left)):
                digest.update(block)
                left -= len(block)
        return digest.hexdigest()


def split_by_fractions(path: Path, fractions: Sequence[float], at_lines: bool) -> list[TextFile]:
    """Cut a file into consecutive parts.

    Args:
      path: a UTF-8 file.
      fractions: one to three shares of the bytes, which sum to 1; the first is positive.
      at_lines: whether a cut moves to the next line break. Else it moves to the next character, and
        never into a CRLF.
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
    return [TextFile(path, start, stop) for start, stop in itertools.pairwise(bounds)]


def cuts(file: BinaryIO, size: int, fractions: Sequence[float], at_lines: bool) -> list[int]:
    """Return the offsets in bytes where the parts of a file begin, and `size`.

    Args:
      file: the file, open for reading.
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
            file.readline()
            offset = file.tell()
        else:
            while (byte := file.read(1)) and byte[0] & 0xC0 == 0x80:
                offset += 1
            if byte == b"\n" and offset:
                file.seek(offset - 1)
                offset += file.read(1) == b"\r"
        bounds.append(min(max(offset, bounds[-1]), size))
    return [*bounds, size]
