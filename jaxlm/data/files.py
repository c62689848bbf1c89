"""Write a file so that nobody ever finds it half written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, per_process: bool = False) -> Iterator[Path]:
    """Yield the name of a partial file beside `path`, to write; at the end, rename it to `path`.

    After any error the partial file is removed, and `path` stays as it was. A partial file that a
    killed process left, or a symbolic link in its place, is removed first: a link is not followed.
    A device or a pipe, such as /dev/stdout, cannot be replaced: its own name is yielded.

    Args:
      path: the file that appears, or is replaced, at the end of the context.
      per_process: whether several processes may write `path` at the same time. Then each process
        has a partial file of its own.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with replacing(Path(folder) / "words.txt") as partial:
      ...         _ = partial.write_text("the cat")
      ...     [file.name for file in Path(folder).iterdir()]
      ['words.txt']
    """
    if is_device(path):
        yield path
        return
    process = f".{os.getpid()}" if per_process else ""
    partial = path.with_name(f"{path.name}{process}.partial")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        with open(partial, "r+b") as file:
            # After a power loss, a renamed file whose content is not on disk may be empty.
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def is_device(path: Path) -> bool:
    """Return whether `path` is a device or a pipe. /dev/stdout is one, whatever it leads to."""
    if path.absolute().parent in (Path("/dev"), Path("/dev/fd")):
        return True
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def why_unwritable(path: Path) -> str | None:
    """Return why no file can be written at `path`, with a remedy; None if it can be written.

    Call it before the work whose result goes to the file. Nothing is written, so a full disk is not
    noticed.

    Example:
      >>> why_unwritable(Path("/"))
      'is a folder, and no file: give the name of a file'
    """
    # `os.path` takes a name that is too long for a name that does not exist.
    if not path.name or os.path.isdir(path):
        return "is a folder, and no file: give the name of a file"
    folder = path.parent
    if not os.path.isdir(folder):
        return f"cannot be written: no folder {folder}; make it, or give another name"
    if is_device(path):
        return None
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return "cannot be written: it is read-only; give another name"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"cannot be written: the folder {folder} is not yours to write to; give another name"
    return None


def is_same_file(path: Path, other: Path) -> bool:
    """Return whether two names are of one file, which may not exist yet. A device is none.

    Example:
      >>> is_same_file(Path("x/../a.txt"), Path("a.txt")), is_same_file(Path("a"), Path("b"))
      (True, False)
    """
    if is_device(path) or is_device(other):
        return False
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.abspath(path) == os.path.abspath(other)


def name_of(folder: Path | str) -> str:
    """Return the name of a folder, also of "." and "..".

    Example:
      >>> name_of("runs/mine/.."), name_of("runs/mine/")
      ('runs', 'mine')
    """
    return os.path.basename(os.path.abspath(folder))


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 by way of a partial file (`replacing`)."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
