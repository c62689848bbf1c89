"""Files of any kind as UTF-8 text: compressed, in another encoding, or one column of a table."""

import io
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from jaxlm.data.columns import cells
from jaxlm.data.compression import is_packed, open_bytes, reading_errors
from jaxlm.data.encodings import HEAD_BYTES, check_encoding, is_utf8, other_than_utf8
from jaxlm.data.sources import EmbeddedText, Source, TextFile, not_utf8
from jaxlm.errors import SettingError, UserError


@dataclass(frozen=True)
class Reading:
    """The settings by which the bytes of a file become text.

    Attributes:
      encoding: the encoding of the file; None for UTF-8.
      column: name of the column of a table; None for a text.
      exact: whether the text stands for the bytes as they are, in any encoding.
      blank: whether a row without text in the column is a blank line; else it is left out.
    """

    encoding: str | None = None
    column: str | None = None
    exact: bool = False
    blank: bool = False

    @property
    def converts(self) -> bool:
        """Return whether the text is not the bytes of the uncompressed file."""
        return self.column is not None or not is_utf8(self.encoding)

    def check(self) -> None:
        """Raise SettingError for an unknown encoding, and one that has no effect."""
        if self.encoding is None:
            return
        check_encoding(self.encoding)
        if self.exact and self.column is None:
            why = "has no effect with `tokens` bytes, which are the bytes of the file: leave it out"
            raise SettingError("encoding", self.encoding, why)


AS_TEXT = Reading()


def open_text(path: Path, reading: Reading = AS_TEXT) -> BinaryIO:
    """Open a file as UTF-8 text: decompressed, and converted as `reading` says.

    Raises:
      UserError: if the file cannot be read, is certainly not UTF-8, or zstd is not installed.
        Reading from the result raises it too.
    """
    if not reading.converts:
        check_plain(path, reading)
        return open_bytes(path)
    file = open_bytes(path)
    parts = _Parts(_converted(file, reading, path), file)
    return cast(BinaryIO, io.BufferedReader(parts, 1 << 20))


def text_of(path: Path, reading: Reading = AS_TEXT) -> Source:
    """Return a whole file as a text.

    A plain UTF-8 file is read line by line. Another file is converted, and held in memory.

    Raises:
      UserError: if the file cannot be read, or is not in the encoding of `reading`.
    """
    if reading.converts or is_packed(path):
        return EmbeddedText(_decoded(read_text(path, reading), path, reading.exact), reading.exact)
    check_plain(path, reading)
    return TextFile(path, exact=reading.exact)


def read_text(path: Path, reading: Reading) -> bytes:
    """Return a whole file as UTF-8 text, decompressed and converted.

    Raises:
      UserError: if the file cannot be read, or is not in the encoding of `reading`.
    """
    with reading_errors(path), open_text(path, reading) as file:
        data = file.read()
    _decoded(data, path, reading.exact)
    return data


def _decoded(data: bytes, path: Path, exact: bool) -> str:
    """Return bytes as text; with `exact`, bytes that are not UTF-8 become surrogates."""
    try:
        return data.decode("utf-8", "surrogateescape" if exact else "strict")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error.start, data[error.start], error.reason) from None


def check_plain(path: Path, reading: Reading) -> None:
    """Raise UserError if the beginning of a file shows that it is not UTF-8.

    Unless `reading` is exact, the file must be UTF-8.
    """
    if reading.exact and reading.column is None:
        return
    with reading_errors(path), open_bytes(path) as file:
        other = other_than_utf8(file.read(HEAD_BYTES))
    if other is not None:
        raise UserError(f"{path} is not UTF-8: it is {other}")


def _converted(file: BinaryIO, reading: Reading, path: Path) -> Generator[bytes, None, None]:
    """Yield a file, in the encoding of `reading`, as UTF-8 in parts."""
    encoding = "utf-8-sig" if is_utf8(reading.encoding) else str(reading.encoding)
    if encoding == "utf-8-sig":
        check_plain(path, reading)
    with file, reading_errors(path):
        text = io.TextIOWrapper(file, encoding, newline="")
        try:
            if reading.column is not None:
                for line in cells(text, reading.column, path, reading.blank):
                    # JSON can spell half of a surrogate pair, which UTF-8 lacks.
                    yield line.encode("utf-8", "replace")
                return
            while block := text.read(1 << 20):
                yield block.encode("utf-8", "replace")
        except UnicodeDecodeError as error:
            if encoding == "utf-8-sig":
                raise _first_error(path) from None
            raise UserError(
                f"{path} is not `encoding` {encoding}: byte 0x{error.object[error.start]:02x} "
                f"({error.reason})"
            ) from None
        except UnicodeError as error:
            raise UserError(f"{path} is not `encoding` {encoding}: {error}") from None


def _first_error(path: Path) -> UserError:
    """Return the error for a file that is not UTF-8."""
    with reading_errors(path), open_bytes(path) as file:
        data = file.read()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(path, error.start, data[error.start], error.reason)
    return UserError(f"{path} changed while it was read: repeat the command")


class _Parts(io.RawIOBase):
    """A file whose content comes in parts, which are made from another file."""

    def __init__(self, parts: Generator[bytes, None, None], file: BinaryIO) -> None:
        self._parts, self._file, self._left = parts, file, b""

    def close(self) -> None:
        # Parts that nobody has asked for do not close the file themselves.
        self._parts.close()
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = part
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
