"""The file formats of other programs. A new format is one file and one line in FORMATS."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxlm.errors import UserError, choose
from jaxlm.interop.arpa_runs import export_arpa, import_arpa
from jaxlm.interop.huggingface.writing import export_huggingface, import_huggingface
from jaxlm.interop.onnx_files import export_onnx, import_onnx
from jaxlm.interop.stablehlo_folders import export_stablehlo, import_stablehlo
from jaxlm.runs.run import Run


class Format(NamedTuple):
    """The functions that write and read the files of a format."""

    write: Callable[[Run, Path], None] | None = None
    """write(run, path) writes a run, or raises UserError if the format cannot hold the run. None:
    the format can only be read."""
    read: Callable[[Path, Path | None], Run] | None = None
    """read(path, folder) returns a file as a run, and saves the run in `folder`, unless `folder` is
    None. None: the format can only be written."""
    folder: bool = False
    """Whether the format is a folder of files."""


FORMATS: dict[str, Format] = {
    "arpa": Format(export_arpa, import_arpa),
    "huggingface": Format(export_huggingface, import_huggingface, folder=True),
    "onnx": Format(export_onnx, import_onnx),
    "stablehlo": Format(export_stablehlo, import_stablehlo, folder=True),
}
"""Formats by name. The name is the end of a file's name too: x.arpa and x.arpa.gz are ARPA files.

A format's functions import libraries other than NumPy themselves, so that the other formats do not
need these libraries."""


def find_format(path: Path, name: str | None = None) -> Format:
    """Return the format of a file.

    Example:
      >>> find_format(Path("kenlm.arpa.gz")) == find_format(Path("kenlm.txt"), "arpa")
      True

    Args:
      path: the file. The end of its name, without .gz, chooses the format if `name` is None.
      name: a name in FORMATS, or None.
    Raises:
      UserError: if there is no format of this name.
    """
    if name is not None:
        return choose(FORMATS, name, "format")
    ending = Path(path.name.removesuffix(".gz")).suffix.removeprefix(".")
    if ending not in FORMATS:
        raise UserError(
            f"{path}: the name does not tell the format: let it end in "
            f"{' or '.join('.' + name for name in FORMATS)}, or give `format`"
        )
    return FORMATS[ending]


def write_run(run: Run, path: str | Path, format: str | None = None) -> None:
    """Write a run to a file, in the format that the end of the file's name or `format` chooses.

    Raises:
      UserError: for an unknown format, a format that cannot hold the run, and a file that cannot be
        written.
    """
    path = Path(path)
    write = find_format(path, format).write
    if write is None:
        raise UserError(f"{path}: files of this format can be read, but not written")
    write(run, path)


def read_run(path: str | Path, folder: str | Path | None = None, format: str | None = None) -> Run:
    """Read a file as a run, in the format that the end of the file's name or `format` chooses.

    Args:
      path: the file.
      folder: where the run is saved; None to save no run.
      format: a name in FORMATS; None for the end of the file's name.
    Raises:
      UserError: for an unknown format, a bad file, and a folder that holds a run already.
    """
    path = Path(path)
    read = find_format(path, format).read
    if read is None:
        raise UserError(f"{path}: files of this format can be written, but not read")
    return read(path, None if folder is None else Path(folder))
