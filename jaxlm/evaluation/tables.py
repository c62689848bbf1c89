"""Tables of scores as files that other programs read: a header, and fields between tabs."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxlm.data.files import is_same_file, replacing, why_unwritable
from jaxlm.errors import SettingError, reason
from jaxlm.evaluation.perplexity import fields

Columns = dict[str, list[Any]]
"""The columns of a table by their names; all have one length."""


def check_out(path: Path | None, *read: str | Path | None, setting: str = "out") -> None:
    """Raise SettingError if `path` cannot be the file of a table.

    Args:
      path: the file; None for no file.
      read: files and folders that are read. The table must not replace one of the files, or a file
        in one of the folders.
      setting: the name of the setting, for the error.
    """
    if path is None:
        return
    why = why_unwritable(path)
    if str(path) == "-":
        why = "is not the name of a file: give a name, such as /dev/stdout for standard output"
    places = [Path(other) for other in read if other is not None]
    if any(is_same_file(path, place) for place in places):
        why = "is a file that is read: give another name"
    elif path.exists() and any(os.path.isdir(place) for place in places):
        inside = {os.path.realpath(parent) for parent in path.absolute().parents}
        if inside & {os.path.realpath(place) for place in places}:
            why = "is a file in a folder that is read: give another name"
    if why is not None:
        raise SettingError(setting, repr(str(path)), why)


def tab_separated(table: Columns) -> Iterator[str]:
    """Yield the lines of a table. A missing number is an empty field.

    Example:
      >>> list(tab_separated({"word": ["a", "b"], "surprisal": [1.5, math.nan]}))
      ['word\\tsurprisal', 'a\\t1.500000', 'b\\t']
    """
    yield "\t".join(table)
    # A row at a time, because the texts of a whole table need more memory than its numbers.
    texts = [map(_cell, _fields_of(values)) for values in table.values()]
    for row in zip(*texts, strict=True):
        yield "\t".join(row)


def _fields_of(values: Sequence[Any]) -> Iterable[Any]:
    """Return the values of a column, texts with the escapes of `fields`."""
    return fields(values) if values and isinstance(values[0], str) else values


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:z.6f}" if isinstance(value, float) else str(value)


def write_table(table: Columns, path: Path) -> None:
    """Write a table to a file.

    Raises:
      SettingError: if the file cannot be written.
    """
    check_out(path)
    try:
        with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in tab_separated(table))
    except OSError as error:
        raise SettingError("out", path, f"cannot be written: {reason(error)}") from None
