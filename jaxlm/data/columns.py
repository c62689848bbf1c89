"""Tables in CSV, TSV and JSON lines: one column, or all columns by name."""

import contextlib
import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from jaxlm.data.compression import PACKED_ENDINGS, open_bytes, reading_errors
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


def whole_lines_note(path: str | Path, column: str | None) -> str | None:
    """Return a note if a file is a table by its name, and no column of it is read; else None.

    Example:
      >>> whole_lines_note("reviews.csv", None)
      'reviews.csv is a table by its name, and its lines are read whole: `column` reads one column'
      >>> whole_lines_note("reviews.csv", "text")

    Args:
      path: the file.
      column: the column that is read; None for whole lines.
    """
    if column is not None or table_ending(Path(path)) is None:
        return None
    name = Path(path).name
    return f"{name} is a table by its name, and its lines are read whole: `column` reads one column"


def cells(file: TextIO, column: str, path: Path, blank: bool = False) -> Iterator[str]:
    """Yield the cells of a column, each as one line. Empty cells are left out.

    Args:
      file: the table, opened with newline="". A table whose name does not say that it is CSV, TSV
        or JSON lines is JSON lines if it begins with "{".
      column: name of the column.
      path: the file, for its name and for errors.
      blank: whether a row without text in the column is a blank line; else it is left out.
    Raises:
      SettingError: if the table has no such column. The error names the columns that it has.
      UserError: for a line that is no JSON object, a cell that is no text or number, a broken
        quotation, and a row that has not as many cells as the header.

    Example:
      >>> import io
      >>> list(cells(io.StringIO('id,text\\n1,"a b\\nc"\\n'), "text", Path("table.csv")))
      ['a b c\\n']
    """
    ending = table_ending(path)
    number, first = next(((n, line) for n, line in enumerate(file) if line.strip()), (0, ""))
    # Blank lines before the first line count in the numbers that errors name.
    begin = [*["\n"] * number, first]
    if ending in _JSON_ENDINGS or (ending is None and first.lstrip().startswith("{")):
        found = _json_cells(itertools.chain(begin, file), column, path)
    else:
        found = _csv_cells(begin, file, column, path)
    for cell in found:
        line = _LINE_BREAKS.sub(" ", cell).strip()
        if line or blank:
            yield f"{line}\n"


def _csv_cells(begin: list[str], file: TextIO, column: str, path: Path) -> Iterator[str]:
    """Yield the cells of a table.

    The header begins with the last line of `begin`. The lines of `begin` before it are blank.
    """
    first = begin[-1]
    widest = max(_DELIMITERS, key=lambda mark: first.count(mark))
    headers = {mark: _header(first, mark) for mark in (widest, *_DELIMITERS)}
    delimiter = next((mark for mark, names in headers.items() if column in names), widest)
    rows = _rows(itertools.chain(begin, file), delimiter, path)
    header = [name.strip() for name in next((row for _, row in rows if any(row)), [])]
    if column not in header:
        raise _no_column(column, header, path)
    place = header.index(column)
    for line, row in rows:
        if any(row):
            _check_width(row, header, path, line)
            yield row[place]
        else:
            yield ""


def _rows(lines: Iterable[str], delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV table, each with the number of its last line. A blank line is no row.

    Raises:
      UserError: for a broken quotation. The error names the line at which its row begins.
    """
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    with _any_length():
        while True:
            begin = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                open_quote = "unexpected end of data" in str(error)
                why = "a quotation mark is not closed" if open_quote else error
                raise UserError(f"{path}, line {begin}, is no CSV: {why}") from None
            if row:
                yield rows.line_num, row


def _check_width(row: list[str], header: list[str], path: Path, line: int) -> None:
    """Raise UserError if a row has not as many cells as the header."""
    if len(row) != len(header):
        raise UserError(
            f"{path}, line {line}, has {len(row)} cells, and the header has {len(header)}: put "
            f"cells with a delimiter or a quotation mark in quotes"
        )


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
    """Yield the values of a name in JSON lines; "" for a record without a value."""
    names: dict[str, None] = {}
    found = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _json_object(line)
        if record is None:
            raise UserError(
                f"{path}, record {number}, is no JSON object: `column` needs one object a line"
            )
        if column not in record:
            if len(names) <= _MOST_NAMES:
                names |= dict.fromkeys(record)
            yield ""
            continue
        found = True
        value = record[column]
        if isinstance(value, bool | list | dict):
            raise UserError(
                f"{path}, record {number}: `column` {column} is neither text nor number"
            )
        yield "" if value is None else value if isinstance(value, str) else str(value)
    if not found:
        raise _no_column(column, list(names), path)


def _json_object(line: str) -> dict[str, Any] | None:
    """Return the JSON object of a line, or None if the line is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _no_column(column: str, names: list[str], path: Path) -> SettingError:
    shown = ", ".join(names[:_MOST_NAMES]) + ", ..." * (len(names) > _MOST_NAMES)
    return SettingError(
        "column", repr(column)[1:-1], f"{path} has no such column, but {shown or 'none at all'}"
    )


def records(path: Path, column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table as a line number and the values by the name of their column.

    Args:
      path: a UTF-8 file, plain or compressed. A file whose name does not say that it is CSV, TSV or
        JSON lines is JSON lines if it begins with "{".
      column: the name of a column, by which the delimiter of a CSV file is found.
    Raises:
      UserError: if the file cannot be read, and for a line that is not UTF-8, is no JSON object, or
        has not as many cells as the header. The error names the line.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = (Path(folder) / "a.tsv").write_text("id\\ttext\\n1\\ta b\\n")
      ...     list(records(Path(folder) / "a.tsv", "text"))
      [(2, {'id': '1', 'text': 'a b'})]
    """
    with reading_errors(path), open_bytes(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UserError(
            f"{path}, line {line}, is not UTF-8: byte 0x{byte:02x} ({error.reason}); "
            f"save the file as UTF-8"
        ) from None
    ending = table_ending(path)
    if ending in _JSON_ENDINGS or (ending is None and text.lstrip().startswith("{")):
        yield from _json_records(text, path)
    else:
        yield from _csv_records(text, column, path, ending)


def _json_records(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        record = _json_object(line)
        if record is None:
            raise UserError(f"{path}, line {number}, is no JSON object: give one object a line")
        yield number, record


def _csv_records(
    text: str, column: str, path: Path, ending: str | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    first = text.lstrip("\r\n").split("\n", 1)[0]
    marks = ("\t",) if ending in (".tsv", ".tab") else _DELIMITERS
    widest = max(marks, key=lambda mark: first.count(mark))
    found = (mark for mark in (widest, *marks) if column in _header(first, mark))
    rows = _rows(io.StringIO(text, newline=""), next(found, widest), path)
    header = [name.strip() for name in next((row for _, row in rows if any(row)), [])]
    for line, row in rows:
        if not any(row):
            continue
        _check_width(row, header, path, line)
        yield line, dict(zip(header, row, strict=True))
