"""One column of a table: CSV, TSV and JSON lines."""

import contextlib
import csv
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from jaxlm.data.compression import PACKED_ENDINGS
from jaxlm.errors import SettingError, UserError

TABLE_ENDINGS = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")
"""How the names of tables end, before the ending of a compressed file."""
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
_DELIMITERS = (",", "\t", ";", "|")
# A line break within a cell becomes a space: each cell is one line.
_LINE_BREAKS = re.compile(r"[\r\n]+")
# At most this many columns are named in an error.
_MOST_NAMES = 20


def table_ending(path: Path) -> str | None:
    """Return the ending of TABLE_ENDINGS that a file's name has, or None.

    Example:
      >>> table_ending(Path("reviews.csv.gz")), table_ending(Path("my.txt"))
      ('.csv', None)
    """
    name = path.name.lower()
    for packed in PACKED_ENDINGS:
        name = name.removesuffix(packed)
    return next((ending for ending in TABLE_ENDINGS if name.endswith(ending)), None)


def cells(file: TextIO, column: str, path: Path) -> Iterator[str]:
    """Yield the cells of a column, each as one line. Empty cells are left out.

    Args:
      file: the table, opened with newline="". A table whose name does not say that it is CSV, TSV
        or JSON lines is JSON lines if it begins with "{".
      column: name of the column.
      path: the file, for its name and for errors.
    Raises:
      SettingError: if the table has no such column. The error names the columns that it has.
      UserError: for a line that is no JSON object, a cell that is no text or number, and a broken
        quotation.

    Example:
      >>> import io
      >>> list(cells(io.StringIO('id,text\\n1,"a b\\nc"\\n'), "text", Path("table.csv")))
      ['a b c\\n']
    """
    ending = table_ending(path)
    first = next((line for line in file if line.strip()), "")
    if ending in _JSON_ENDINGS or (ending is None and first.lstrip().startswith("{")):
        found = _json_cells(itertools.chain([first], file), column, path)
    else:
        found = _csv_cells(first, file, column, path)
    for cell in found:
        if line := _LINE_BREAKS.sub(" ", cell).strip():
            yield f"{line}\n"


def _csv_cells(first: str, file: TextIO, column: str, path: Path) -> Iterator[str]:
    """Yield the cells of a table whose header begins with the line `first`."""
    widest = max(_DELIMITERS, key=lambda mark: first.count(mark))
    headers = {mark: _header(first, mark) for mark in (widest, *_DELIMITERS)}
    delimiter = next((mark for mark, names in headers.items() if column in names), widest)
    with _any_length():
        rows = csv.reader(itertools.chain([first], file), delimiter=delimiter)
        try:
            header = [name.strip() for name in next(rows, [])]
            if column not in header:
                raise _no_column(column, header, path)
            place = header.index(column)
            for row in rows:
                if place < len(row):
                    yield row[place]
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}, is no CSV: {error}") from None


def _header(line: str, delimiter: str) -> list[str]:
    """Return the names of the columns in the first line of a table."""
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


@contextlib.contextmanager
def _any_length() -> Iterator[None]:
    """Within this context, cells of a CSV file may be of any length, not of 128 KiB alone."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _json_cells(lines: Iterator[str], column: str, path: Path) -> Iterator[str]:
    """Yield the values of a name in JSON lines."""
    names: dict[str, None] = {}
    found = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise UserError(
                f"{path}, record {number}, is no JSON object: `column` needs one object a line"
            )
        if column not in record:
            if len(names) <= _MOST_NAMES:
                names |= dict.fromkeys(record)
            continue
        found = True
        value = record[column]
        if isinstance(value, bool | list | dict):
            raise UserError(
                f"{path}, record {number}: `column` {column} is neither text nor number"
            )
        if value is not None:
            yield value if isinstance(value, str) else str(value)
    if not found:
        raise _no_column(column, list(names), path)


def _no_column(column: str, names: list[str], path: Path) -> SettingError:
    shown = ", ".join(names[:_MOST_NAMES]) + ", ..." * (len(names) > _MOST_NAMES)
    return SettingError(
        "column", repr(column)[1:-1], f"{path} has no such column, but {shown or 'none at all'}"
    )
