"""The file formats of other programs. A new format is one file and one line in FORMATS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.errors import SettingError, UserError, choose
from jaxlm.interop.arpa_runs import export_arpa, import_arpa
from jaxlm.interop.huggingface.writing import export_huggingface, import_huggingface
from jaxlm.interop.octagram import export_gram, export_gram_counts
from jaxlm.interop.onnx_files import export_onnx, import_onnx
from jaxlm.interop.stablehlo_folders import export_stablehlo, import_stablehlo
from jaxlm.runs.run import Run


class Format(NamedTuple):
    """The functions that write and read the files of a format."""

    write: Callable[[Run, Path], None] | None = None
    """write(run, path) writes a run, or raises UserError if the format cannot hold the run. None:
    the format can only be read."""
    read: Callable[..., Run] | None = None
    """read(path, folder, **options) returns a file as a run, and saves the run in `folder`, unless
    `folder` is None. None: the format can only be written."""
    options: tuple[str, ...] = ()
    """The options of `read`."""
    folder: bool = False
    """Whether the format is a folder of files."""
    recounts: bool = False
    """Whether `write` counts the training text again, whatever the run's tables have."""


def _write_safetensors(run: Run, path: Path) -> None:
    from jaxlm.interop.torch_files import write_safetensors

    write_safetensors(run, path)


def _read_safetensors(path: Path, folder: Path | None, **options: Any) -> Run:
    from jaxlm.interop.torch_files import read_safetensors

    return read_safetensors(path, folder, **options)


def _write_pt(run: Run, path: Path) -> None:
    from jaxlm.interop.torch_files import write_pt

    write_pt(run, path)


def _read_pt(path: Path, folder: Path | None, **options: Any) -> Run:
    from jaxlm.interop.torch_files import read_pt

    return read_pt(path, folder, **options)


FOREIGN_TEXT = ("vocabulary", "tokens", "tell")
_PT = Format(_write_pt, _read_pt, FOREIGN_TEXT)

FORMATS: dict[str, Format] = {
    "arpa": Format(export_arpa, import_arpa, ("tokens", "add_unknown")),
    "safetensors": Format(_write_safetensors, _read_safetensors, FOREIGN_TEXT),
    "pt": _PT,
    "pth": _PT,
    "huggingface": Format(export_huggingface, import_huggingface, folder=True),
    "onnx": Format(export_onnx, import_onnx),
    "stablehlo": Format(export_stablehlo, import_stablehlo, folder=True),
    "gram": Format(export_gram, recounts=True),
    "gram-counts": Format(export_gram_counts, recounts=True),
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
    return FORMATS[format_name(path, name)]


def format_name(path: Path, name: str | None = None) -> str:
    """Return the name of the format of a file; see `find_format`."""
    if name is not None:
        choose(FORMATS, name, "format")
        return name
    ending = _ending(path)
    if ending not in FORMATS:
        raise UserError(
            f"{path}: the name does not tell the format: let it end in "
            f"{', '.join('.' + name for name in FORMATS)}, or give `format`"
        )
    return ending


def has_format(path: Path) -> bool:
    """Return whether the end of a file's name chooses a format."""
    return _ending(path) in FORMATS


def _ending(path: Path) -> str:
    """Return the end of a file's name without .gz and without the dot."""
    return Path(path.name.removesuffix(".gz")).suffix.removeprefix(".")


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


def read_run(
    path: str | Path,
    folder: str | Path | None = None,
    format: str | None = None,
    **options: Any,
) -> Run:
    """Read a file as a run, in the format that the end of the file's name or `format` chooses.

    Args:
      path: the file.
      folder: where the run is saved; None to save no run.
      format: a name in FORMATS; None for the end of the file's name.
      options: for an ARPA file, `tokens` and `add_unknown`; for weights of other programs,
        `vocabulary`, `tokens` and `tell`. See `jaxlm.interop.arpa_runs.import_arpa` and
        `jaxlm.interop.torch_files.read_safetensors`. None counts as not given.
    Raises:
      UserError: for an unknown format, a bad file, and a folder that holds a run already.
      SettingError: for an option that the format does not have.
    """
    path = Path(path)
    found = find_format(path, format)
    if found.read is None:
        raise UserError(f"{path}: files of this format can be written, but not read")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - {"tell"}:
        if name not in found.options:
            why = f"has no effect on {path}, whose format has no such setting: leave it out"
            raise SettingError(name, given[name], why)
    given = {name: value for name, value in given.items() if name in found.options}
    return found.read(path, None if folder is None else Path(folder), **given)
