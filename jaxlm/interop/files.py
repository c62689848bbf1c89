"""Read and write files that are plain or compressed by gzip. No file is left half written."""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from jaxlm.data.files import replacing
from jaxlm.errors import UserError, reason


@contextlib.contextmanager
def open_maybe_gzip(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading. Decompress it if it begins like gzip data."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        if file.peek(2)[:2] == b"\x1f\x8b":
            yield cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=file)))
        else:
            yield file


@contextlib.contextmanager
def create(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing, compressed by gzip if its name ends in .gz.

    The file is written under another name, and renamed when the context ends without an error.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "words.txt.gz"
      ...     with create(path) as file:
      ...         _ = file.write(b"the cat")
      ...     with open_maybe_gzip(path) as file:
      ...         print(file.read())
      b'the cat'

    Raises:
      UserError: if the file cannot be written.
    """
    try:
        with replacing(path) as partial, contextlib.ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(open(partial, "wb"))
            if path.suffix == ".gz":
                # Without a name and a time, equal contents give equal files.
                packed = gzip.GzipFile("", "wb", 6, file, mtime=0)
                file = cast(IO[bytes], stack.enter_context(packed))
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from None
