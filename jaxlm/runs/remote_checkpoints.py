"""Checkpoints elsewhere than in the run's folder: gs://bucket/runs, on any file system that orbax
knows.

What the run is lies there too (config.json, tokenizer.json), so that a machine may be lost with its
disk, and the run goes on from there on another one. Written before step 0, these two also find out
whether anything can be written there.
"""

import contextlib
from pathlib import Path

from jaxlm.errors import UserError
from jaxlm.runs.checkpoints import path_of
from jaxlm.runs.run import CONFIG, TOKENIZER

# The first says that the rest is there: written last, looked for alone.
DESCRIPTION = (CONFIG, TOKENIZER)


def is_kept(place: Path | str) -> bool:
    """Whether a run's checkpoints and its description are in `place`. Raises UserError if it cannot
    be read.
    """
    try:
        return any((path_of(place) / name).exists() for name in (CONFIG, "last"))
    except Exception as error:  # each file system raises its own types
        raise _refusal("read", place, error) from error


def fetch(place: Path | str, folder: Path) -> None:
    """Copies the description of the run that is kept in `place` to `folder`, which has none."""
    try:
        texts = {name: (path_of(place) / name).read_text() for name in DESCRIPTION}
    except Exception as error:  # see is_kept
        raise _refusal("read", place, error) from error
    folder.mkdir(parents=True, exist_ok=True)
    for name in reversed(DESCRIPTION):
        (folder / name).write_text(texts[name], encoding="utf-8")


def keep(folder: Path, place: Path | str) -> None:
    """Copies the description in `folder` to `place`. Raises UserError if it cannot be written."""
    try:
        path = path_of(place)
        path.mkdir(parents=True, exist_ok=True)
        for name in reversed(DESCRIPTION):
            (path / name).write_text((folder / name).read_text(encoding="utf-8"))
    except Exception as error:  # see is_kept
        raise _refusal("write", place, error) from error


def give_up(place: Path | str) -> None:
    """Undoes `keep` for a run of which nothing came."""
    path = path_of(place)
    for name in DESCRIPTION:
        with contextlib.suppress(Exception):
            (path / name).unlink(missing_ok=True)
    with contextlib.suppress(Exception):
        path.rmdir()


def _refusal(verb: str, place: Path | str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"--checkpoint-folder: cannot {verb} {place}: {reason}; give a folder that can be written, "
        f"such as gs://bucket/runs (with gcsfs installed), or leave it out"
    )
