"""Checks of the arguments that the functions of jaxlm.inspection share."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from jaxlm.errors import SettingError, UserError
from jaxlm.runs.run import Run


def check_run(run: Any) -> None:
    """Raise UserError unless `run` is a Run.

    Example:
      >>> check_run("runs/lstm")
      Traceback (most recent call last):
      jaxlm.errors.UserError: `run` is a str and no Run: give jaxlm.load('runs/lstm')
    """
    if not isinstance(run, Run):
        raise UserError(f"`run` is {described(run)} and no Run: give {_loaded(run)}")


def check_text(text: Any, field: str = "text") -> None:
    """Raise UserError unless `text`, the argument `field`, is a text.

    Example:
      >>> check_text(["to", "be"])
      Traceback (most recent call last):
      jaxlm.errors.UserError: `text` is a list and no text: give a str
    """
    if not isinstance(text, str):
        raise UserError(f"`{field}` is {described(text)} and no text: give a str")


def check_texts(texts: Any, field: str) -> tuple[str, ...]:
    """Return several texts, the argument `field`, as a tuple.

    Raises:
      UserError: for a single text, whose letters would be taken for texts, and for other values.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise UserError(f"`{field}` is {described(texts)}: give a list of texts")
    found = tuple(texts)
    for text in found:
        if not isinstance(text, str):
            raise UserError(f"`{field}` has {described(text)} in it: give a list of texts")
    return found


def as_folder(folder: Any) -> Path:
    """Return the argument `folder` as a path.

    Raises:
      SettingError: for a value that can be no path.
    """
    if not isinstance(folder, str | os.PathLike) or "\0" in str(folder):
        raise SettingError("folder", repr(folder), "must be the path of a folder")
    return Path(folder)


def in_a_line(value: Any) -> str:
    """Return a value as an error shows it: in one line of at most 60 characters.

    Example:
      >>> import numpy as np
      >>> in_a_line(np.eye(2, dtype=int))
      '[[1 0] [0 1]]'
    """
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def described(value: Any) -> str:
    """Return the type of a value with its article."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _loaded(value: Any) -> str:
    """Return how to get the Run that `value` may stand for."""
    if isinstance(value, str | PurePath):
        return f"jaxlm.load({str(value)!r})"
    return "a run, as jaxlm.load(folder) and jaxlm.fit return it"
