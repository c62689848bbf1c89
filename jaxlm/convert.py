"""python -m jaxlm.convert: an n-gram to an ARPA file, or an ARPA file to a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from jaxlm.commands import cli
from jaxlm.errors import UserError
from jaxlm.interop.runs import export_arpa, import_arpa
from jaxlm.runs.run import load

ABOUT = """An n-gram run to an ARPA file, which KenLM and SRILM read; or their ARPA file to a run.

Examples:
  python -m jaxlm.convert runs/ngram-ptb ptb.arpa.gz
  python -m jaxlm.convert kenlm.arpa runs/kenlm
"""


@dataclass(frozen=True)
class Command:
    """From what, to what."""

    source: tyro.conf.Positional[Path]
    """A run's folder, or an ARPA file (plain or gzip)."""
    target: tyro.conf.Positional[Path]
    """The ARPA file to write (gzip if it ends in .gz), or the new run's folder."""


def main(argv: Sequence[str]) -> int:
    """A folder is written as a file, a file as a folder."""
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
