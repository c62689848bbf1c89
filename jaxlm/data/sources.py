"""Where text comes from: a byte range of a UTF-8 file, or a string. Both are read as lines that
keep their line break.
"""

import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxlm.errors import UserError

BOM = b"\xef\xbb\xbf"


class Source(Protocol):
    """A text that can be read again and again."""

    @property
    def size(self) -> int:
        """Bytes of the text as stored."""

    def lines(self) -> Iterator[str]:
        """The lines, each with its line break if it has one; CRLF becomes LF, a byte order mark is
        dropped.
        """

    def sha256(self) -> str:
        """Of the bytes as stored."""


@dataclass(frozen=True)
class EmbeddedText:
    """A text held in memory."""

    text: str

    @property
    def size(self) -> int:
        return len(self.text.encode("utf-8"))

    def lines(self) -> Iterator[str]:
        # As TextFile reads: unlike str.splitlines, StringIO leaves U+2028 and others alone.
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
                yield self._decode(raw, position)
                position += len(raw)

    def _decode(self, raw: bytes, position: int) -> str:
        text = raw[len(BOM) :] if position == 0 and raw.startswith(BOM) else raw
        try:
            line = text.decode("utf-8")
        except UnicodeDecodeError as error:
            offset = position + len(raw) - len(text) + error.start
            raise UserError(
                f"{self.path} is not UTF-8: byte 0x{text[error.start]:02x} at offset {offset} "
                f"({error.reason}). "
                f"Convert it first, for instance: iconv -f GB18030 -t UTF-8"
            ) from None
        return line[:-2] + "\n" if line.endswith("\r\n") else line

    def sha256(self) -> str:
        digest, left = hashlib.sha256(), self.size
        with open(self.path, "rb") as file:
            file.seek(self.start)
            while block := file.read(min(1 << 20, left)):
                digest.update(block)
                left -= len(block)
        return digest.hexdigest()


def split_by_fractions(path: Path, fractions: Sequence[float], at_lines: bool) -> list[TextFile]:
    """Cuts a file into consecutive parts by fractions of its bytes.

    The cut moves on to the next line break (`at_lines`) or the next character, so no line,
    character or CRLF is torn.
    """
    if (
        len(fractions) > 3
        or any(fraction < 0 for fraction in fractions)
        or not 0.999 < sum(fractions) < 1.001
        or fractions[0] <= 0
    ):
        raise UserError(
            f"--fractions {' '.join(map(str, fractions))}: give the shares of train, valid "
            f"and test, which sum to 1, "
            f"for instance 0.9 0.05 0.05"
        )
    size, share, cuts = os.path.getsize(path), 0.0, [0]
    with open(path, "rb") as file:
        for fraction in fractions[:-1]:
            share += fraction
            # A rounding error must not move the cut of 0.9 + 0.1 one byte back.
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
            cuts.append(min(max(offset, cuts[-1]), size))
    cuts.append(size)
    return [TextFile(path, start, stop) for start, stop in itertools.pairwise(cuts)]
