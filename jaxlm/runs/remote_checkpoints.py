"""Where checkpoints are, also outside of the run's folder: in any file system that orbax knows.

The description of the run (config.json, tokenizer.json) is copied there too. If a machine is lost
with its disk, the run can continue on another machine. The copies are written before step 0, so a
folder that cannot be written is found before training starts.
"""

import contextlib
from pathlib import Path
from typing import Any

from jaxlm.data.files import name_of, write_text
from jaxlm.errors import UserError, reason

CHECKPOINTS = "checkpoints"
# config.json is written last, so its presence means that the description is complete.
DESCRIPTION = ("tokenizer.json", "config.json")


def path_of(folder: Path | str) -> Any:
    """Return a path with pathlib's methods in any file system that orbax knows.

    Raises:
      ImportError: at its first use, if the package of the file system is not installed.
    """
    from etils import epath

    # Made absolute, gs://bucket/run would become a local path.
    return epath.Path(folder) if "://" in str(folder) else epath.Path(folder).resolve()


def checkpoints_of(folder: Path, remote: str | None) -> Path | str:
    """Return where a run's checkpoints are: in its folder, or under its name in `remote`."""
    return f"{remote.rstrip('/')}/{name_of(folder)}" if remote else folder / CHECKPOINTS


def holds_run(place: Path | str) -> bool:
    """Return whether `place` holds checkpoints of a run ("last"), or its description.

    Raises:
      UserError: if `place` cannot be read.
    """
    try:
        return any((path_of(place) / name).exists() for name in ("config.json", "last"))
    except Exception as error:  # each file system raises its own types
        raise _refusal("read", place, error) from error


def check_readable(place: Path | str) -> None:
    """Raise UserError if `place` cannot be read. A place that holds nothing can be read.

    Raises:
      UserError: with the reason of the file system.
    """
    holds_run(place)


def holds_any_run(place: Path | str) -> bool:
    """Return whether `place` holds a run, or the runs of a sweep in folders of their own.

    Raises:
      UserError: if `place` cannot be read.
    """
    if holds_run(place):
        return True
    try:
        return any(path_of(place).glob("*seed-*/config.json"))
    except Exception as error:  # see holds_run
        raise _refusal("read", place, error) from error


def fetch_description(place: Path | str, folder: Path) -> None:
    """Copy the description of the run from `place` to `folder`; each file is whole, or not there.

    Raises:
      UserError: if `place` cannot be read, or `folder` cannot be written.
    """
    try:
        texts = {name: (path_of(place) / name).read_text() for name in DESCRIPTION}
    except Exception as error:  # see holds_run
        raise _refusal("read", place, error) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in DESCRIPTION:
            write_text(folder / name, texts[name])
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}: free some space") from None


def copy_description(folder: Path, place: Path | str) -> None:
    """Copy the description in `folder` to `place`.

    Raises:
      UserError: if `place` cannot be written.
    """
    try:
        path = path_of(place)
        path.mkdir(parents=True, exist_ok=True)
        for name in DESCRIPTION:
            text = (folder / name).read_text(encoding="utf-8")
            if "://" in str(place):
                # A store of objects shows a new object when it is whole.
                (path / name).write_text(text)
            else:
                write_text(Path(path) / name, text)
    except Exception as error:  # see holds_run
        raise _refusal("write", place, error) from error


def remove_description(place: Path | str) -> None:
    """Undo `copy_description` for a run that wrote nothing."""
    path = path_of(place)
    for name in reversed(DESCRIPTION):
        with contextlib.suppress(Exception):
            (path / name).unlink(missing_ok=True)
    with contextlib.suppress(Exception):
        path.rmdir()


def _refusal(verb: str, place: Path | str, error: Exception) -> UserError:
    """Return the error for a place that cannot be read or written (`verb`), with a remedy."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    kind = {"read": "read", "write": "written"}[verb]
    return UserError(
        f"`checkpoint_folder`: cannot {verb} {place}: {reason}; give a folder that can be {kind}, "
        f"such as gs://bucket/runs (with gcsfs installed), or leave it out"
    )
