"""Digests of files: a file whose bytes changed since it was written is found before it is used.

The size of a file is compared whenever it is read. The bytes of a file of LARGE_BYTES or less are
compared whenever it is read, and those of a larger file once, until the file changes: an empty file
in the user's cache says that they were compared.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from jaxlm.data.corpora import cache_folder

LARGE_BYTES = 4 << 20


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, size: int, sha256: str) -> None:
    """Raise ValueError if a file is not `size` bytes long, has another digest, or is no file.

    Raises:
      OSError: if the file cannot be read.
    """
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} is {path.stat().st_size:,} bytes long, not {size:,}")
    if not path.is_file():
        # The bytes of a device such as /dev/zero never end.
        raise ValueError(f"{path.name} is no file of bytes")

    def check() -> None:
        if file_digest(path) != sha256:
            raise ValueError(f"the bytes of {path.name} are not those that were written")

    check_once(path, sha256, check)


def check_once(path: Path, what: str, check: Callable[[], None]) -> None:
    """Call `check()`, unless the file is large and `check` has passed since the file changed.

    Args:
      path: the file.
      what: names the check: checks of other names are other checks.
      check: raises an error if the file is damaged.
    """
    status = path.stat()
    about = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{status.st_ino}\n{what}"
    passed = cache_folder() / "checked" / hashlib.sha256(about.encode()).hexdigest()[:32]
    large = status.st_size > LARGE_BYTES
    # `Path.exists` raises an error if the cache may not be read.
    if large and os.path.exists(passed):
        return
    check()
    if large:
        # Without a cache, the check is repeated each time.
        with contextlib.suppress(OSError):
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.touch()
