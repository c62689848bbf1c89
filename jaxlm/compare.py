"""python -m jaxlm.compare: whether one run predicts a text better than another run."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import glob
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.data.columns import whole_lines_note
from jaxlm.errors import UserError
from jaxlm.evaluation.comparing import RESAMPLES, Comparison, Side, compare, shown_p
from jaxlm.evaluation.tables import check_out, write_table
from jaxlm.runs.folder import CONFIG
from jaxlm.runs.run import load_all

ABOUT = """Which of two runs predicts a text better: bits line by line, an interval and a p.

A and B may each be several runs that differ by their seeds: the folder that train --seeds wrote, a
pattern in quotes, or folders separated by commas. Their mean is compared.

Examples:
  python -m jaxlm.compare runs/ngram-ptb runs/lstm-ptb --text sentences.txt
  python -m jaxlm.compare runs/gru-seeds runs/lstm-seeds --text my.txt --out differences.tsv
  python -m jaxlm.compare runs/a-0,runs/a-1 "runs/sweep/lr-0.01-*" --text my.txt --start fresh
"""
LARGEST = 3


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.compare`."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of A and of B."""
    text: Path | None = None
    """Text file; each line is scored on its own."""
    out: Path | None = None
    """File for a table with a row a line: tokens and bits of A and B, and their difference."""
    start: str | None = None
    """State before each line: fresh, the initial state; warm, after a stretch of the training text
    (none: warm for a run that was trained on a stream of text, else fresh)."""
    known_only: bool = False
    """Leave out the lines in which a run reads a word as <unk>."""
    resamples: int = RESAMPLES
    """Resamples of the bootstrap, and random signs of the permutation test."""
    seed: int = 0
    """Seed of the resamples and of the signs."""
    encoding: str | None = None
    """Encoding of the text (none: UTF-8)."""
    column: str | None = None
    """Column with the lines, if the text is a table."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""


def main(argv: Sequence[str]) -> int:
    """Print the table, what it means, the lines that differ most, and the protocol."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.compare", about=ABOUT)
    if len(command.runs) != 2:
        raise UserError(
            f"name two runs, not {len(command.runs)}: python -m jaxlm.compare RUN_A RUN_B --text "
            f"my.txt; several seeds of one side are a folder of runs, or separated by commas"
        )
    if command.text is None:
        raise UserError("give the text to compare the runs on: --text my.txt")
    check_out(command.out, command.text)
    load_plugin(command.plugin)
    a, b = (
        load_all(folders_of(name), checkpoint_folder=command.checkpoint_folder)
        for name in command.runs
    )
    found = compare(
        a,
        b,
        text=command.text,
        start=command.start,
        known_only=command.known_only,
        encoding=command.encoding,
        column=command.column,
        resamples=command.resamples,
        seed=command.seed,
    )
    cli.say(whole_lines_note(command.text, command.column))
    # A table that cannot be written must not lose the comparison: it is printed first.
    console = Console(file=cli.report_stream(command.out), highlight=False)
    show(console, found, command)
    if command.out is not None:
        write_table(found.columns(), command.out)
        told = f"differences: {command.out} ({len(found.lines):,} rows)"
        console.print(told, markup=False, soft_wrap=True)
    return 0


def folders_of(name: str) -> list[Path]:
    """Return the folders of the runs of one side.

    Args:
      name: parts separated by commas. A part is the folder of a run, a folder that holds folders of
        runs, or a pattern with `*`.
    """
    found: list[Path] = []
    parts = [name] if os.path.exists(Path(name, CONFIG)) else name.split(",")
    for part in filter(None, parts):
        folders = [Path(part)]
        if glob.has_magic(part) and not os.path.exists(folders[0]):
            folders = [path for path in map(Path, glob.glob(part)) if (path / CONFIG).exists()]
            if not folders:
                raise UserError(f"no run has a folder like {part}: give the folder of a run")
        elif not os.path.exists(folders[0] / CONFIG):
            # A name that is too long is an error for `glob`, and no folder for `os.path`.
            inside = folders[0].glob(f"*/{CONFIG}") if os.path.isdir(folders[0]) else ()
            folders = [path.parent for path in inside] or folders
        found += sorted(folders, key=_by_number)
    return found


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return a key by which seed-2 comes before seed-10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def show(console: Console, found: Comparison, command: Command) -> None:
    """Print a comparison."""

    def say(text: str, **options: Any) -> None:
        console.print(text, markup=False, soft_wrap=True, **options)

    for letter, side, name in zip("AB", (found.a, found.b), command.runs, strict=True):
        seeds = f" ({len(side.names)} runs)" if len(side.names) > 1 else ""
        say(f"{letter}: {name}{seeds}")
    say(f"text: {command.text}, {len(found.lines):,} lines")
    plus_minus = "±" if console.encoding.startswith("utf") else "+-"
    console.print(result_table(found, plus_minus))
    for side in (found.a, found.b):
        if len(side.names) > 1:
            each = " ".join(f"{bits:.4f}" for bits in side.bits_per_token)
            say(f"{'A' if side is found.a else 'B'}: bits per token by run: {each}")
    say(found.meaning)
    for better in "AB":
        show_largest(console, found, better)
    say(found.protocol)


def result_table(found: Comparison, plus_minus: str = "±") -> Table:
    """Return a table of the bits per line, per word or character, and per token."""

    def shown(side: Side, count: float) -> str:
        mean, deviation = side.per(count)
        return f"{mean:.4f}" if deviation is None else f"{mean:.4f} {plus_minus} {deviation:.4f}"

    table = Table()
    for header in ("bits", "A", "B", "B - A", f"{100 * found.confidence:g}% interval", "p"):
        table.add_column(header, justify="left" if header == "bits" else "right")
    rows: list[tuple[str, float, tuple[float, float] | None]] = [
        ("per line", len(found.lines), found.interval)
    ]
    if found.units:
        rows.append((f"per {found.unit}", found.units, found.unit_interval))
    for name, count, interval in rows:
        difference = found.difference.sum() / count
        between = "" if interval is None else f"{interval[0]:z.4f} to {interval[1]:z.4f}"
        p = shown_p(found.p) if name == "per line" else ""
        table.add_row(
            name, shown(found.a, count), shown(found.b, count), f"{difference:z.4f}", between, p
        )
    tokens = [int(side.tokens_L.sum()) for side in (found.a, found.b)]
    table.add_row("per token", *map(shown, (found.a, found.b), tokens), "", "", "")
    table.add_row("tokens", *(f"{count:,}" for count in tokens), "", "", "")
    return table


def show_largest(console: Console, found: Comparison, better: str) -> None:
    """Print the lines that one side predicts better by most bits, each on one row."""
    largest = found.largest(better, LARGEST)
    if not largest:
        return
    console.print(f"lines that {better} predicts better by most bits (line, bits, text):")
    for index in largest:
        line = found.lines[index]
        shown = line if line.isprintable() else repr(line)[1:-1]
        row = f"{found.numbers[index]:8}  {abs(found.difference[index]):7.2f}  {shown}"
        console.print(row, markup=False, no_wrap=True, overflow="ellipsis")


class _CompareModule(ModuleType):
    """The module is a function too, because the command and `jaxlm.compare` have one name."""

    def __call__(self, *arguments: Any, **settings: Any) -> Comparison:
        return compare(*arguments, **settings)


if __name__ == "__main__":
    cli.run(main)
else:
    sys.modules[__name__].__class__ = _CompareModule
