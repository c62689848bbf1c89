"""Files that are plain or compressed: gzip and zstd are recognised by their first bytes."""

import contextlib
import gzip
import importlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxlm.errors import UserError, reason

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PACKED_ENDINGS = (".gz", ".zst")
"""How the names of compressed files end. The content decides, not the name."""


def is_packed(path: Path) -> bool:
    """Return whether a file is compressed by gzip or zstd.

    Raises:
      UserError: if the file cannot be read.
    """
    with reading_errors(path), open(path, "rb") as file:
        first = file.read(4)
    return first.startswith(GZIP) or first == ZSTD


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading. A file that begins like gzip or zstd data is decompressed.

    Raises:
      UserError: if the file cannot be read, or zstd is not installed.
    """
    with reading_errors(path), open(path, "rb") as file:
        first = file.read(4)
    if first.startswith(GZIP):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if first == ZSTD:
        return _zstd().open(path, "rb")
    return open(path, "rb")


@contextlib.contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Within this context, errors of reading `path` and of decompressing it become a UserError."""
    try:
        yield
    except (UserError, UnicodeError):
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except Exception as error:
        # The error of zstd belongs to the module that `_zstd` imports.
        if type(error).__name__ != "ZstdError":
            raise
        raise UserError(f"cannot read {path}: {error}") from None


def _zstd() -> Any:
    """Return a module for zstd: Python's own since 3.14, else the package backports.zstd."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise UserError("text compressed by zstd needs a package: pip install backports.zstd")
