"""python -m jaxlm.convert: write an n-gram run as an ARPA file, or read an ARPA file as a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from jaxlm.commands import cli
from jaxlm.errors import UserError
from jaxlm.interop.runs import export_arpa, import_arpa
from jaxlm.runs.run import load

ABOUT = """Write an n-gram run as an ARPA file for KenLM and SRILM, or read an ARPA file as a run.

Examples:
  python -m jaxlm.convert runs/ngram-ptb ptb.arpa.gz
  python -m jaxlm.convert kenlm.arpa runs/kenlm
"""


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.convert`."""

    source: tyro.conf.Positional[Path]
    """Folder of the run, or ARPA file (plain or gzip)."""
    target: tyro.conf.Positional[Path]
    """ARPA file to write (gzip if its name ends in .gz), or folder of the new run."""


def main(argv: Sequence[str]) -> int:
    """Convert a folder to a file, or a file to a folder."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.convert", about=ABOUT)
    console = Console(highlight=False)
    if command.source.is_dir():
        if command.target.is_dir():
            raise UserError(f"{command.target} is a folder: name the ARPA file to write")
        export_arpa(load(command.source), command.target)
        console.print(f"written to {command.target}", soft_wrap=True)
        return 0
    if not command.source.exists():
        raise UserError(f"{command.source} does not exist: give a run's folder, or an ARPA file")
    run = import_arpa(command.source, command.target)
    sizes = ", ".join(f"{size:,}" for size in run.params.sizes)
    console.print(f"n-grams of each order: {sizes}", soft_wrap=True)
    console.print(f"saved in {command.target}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
