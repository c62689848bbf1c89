"""python -m jaxlm.pairs: minimal pairs, such as BLiMP, under one run or several runs."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.data.splitting import NONE, check_split
from jaxlm.errors import UserError, choose
from jaxlm.evaluation.pairs import Fields, PairScores, check_measure, pairs, read_pairs
from jaxlm.evaluation.tables import Columns, check_out, write_table
from jaxlm.runs.run import load_all

ABOUT = """Minimal pairs: how often a run prefers the good sentence of a pair to the bad sentence.

The pairs are a folder of files such as BLiMP's, or one file: JSON lines, TSV or CSV.

Examples:
  python -m jaxlm.pairs runs/lstm-ptb blimp
  python -m jaxlm.pairs runs/ngram-ptb runs/lstm-ptb blimp --split treebank --by paradigm
  python -m jaxlm.pairs runs/lstm-ptb my.tsv --good right --bad wrong --group kind --out pairs.tsv
"""
BY = ("phenomenon", "paradigm")


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.pairs`."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs, then the folder or the file of the pairs."""
    out: Path | None = None
    """Write every pair with its scores to this file, separated by tabs."""
    by: str = "phenomenon"
    """phenomenon: a row for each group of paradigms; paradigm: a row for each paradigm."""
    measure: str = "sum"
    """Score of a sentence from its log-probabilities: sum, mean (by token), or length: sum /
    tokens^alpha."""
    alpha: float | None = None
    """With --measure length: the exponent (none: 0.8)."""
    start: str | None = None
    """State before each sentence: fresh, the initial state; warm, after a stretch of the training
    text (none: warm for a run that was trained on a stream of text, else fresh)."""
    split: str = NONE
    """Split punctuation, 's and n't from words, as in the training text of a run over words:
    treebank (did n't), wikitext (didn 't) or none."""
    good: str = Fields.good
    """Field of the good sentence."""
    bad: str = Fields.bad
    """Field of the bad sentence."""
    group: str | None = None
    """Field of the paradigm (none: UID if there is one, else the name of the file)."""
    phenomenon: str | None = None
    """Field of the group of paradigms (none: linguistics_term if there is one)."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""


def main(argv: Sequence[str]) -> int:
    """Score the pairs, print a table, and write the pairs to a file if the command asks for it."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.pairs", about=ABOUT)
    check_flags(command)
    *folders, path = command.paths
    fields = Fields(command.good, command.bad, command.group, command.phenomenon)
    listed = read_pairs(path, fields)
    load_plugin(command.plugin)
    runs = load_all(folders, checkpoint_folder=command.checkpoint_folder)
    found = pairs(
        runs,
        listed,
        measure=command.measure,
        alpha=command.alpha,
        start=command.start,
        split=command.split,
    )
    console = Console(file=cli.report_stream(command.out))
    console.print(result_table(found, command.by))
    for line in notes(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if command.out is not None:
        write_table(found.columns, command.out)
        told = f"pairs: {command.out} ({len(found.pairs):,} rows)"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    return 0


def check_flags(command: Command) -> None:
    """Raise UserError for flags that are missing or cannot be used."""
    if len(command.paths) < 2:
        raise UserError(
            "name at least one run, and then the pairs: python -m jaxlm.pairs RUN FOLDER|FILE"
        )
    if os.path.isfile(command.paths[-1] / "config.json"):
        raise UserError(
            f"{command.paths[-1]} is a run: the last argument is the folder or the file of pairs"
        )
    choose(dict.fromkeys(BY), command.by, "by")
    check_measure(command.measure, command.alpha)
    check_split(command.split)
    check_out(command.out, command.paths[-1])


def result_table(found: PairScores, by: str) -> Table:
    """Return the table of accuracy and of unknown words, by phenomenon or by paradigm.

    Pairs without a phenomenon are shown by paradigm. The last row is the mean over the paradigms.
    """
    if not any(pair.phenomenon for pair in found.pairs):
        by = "paradigm"
    columns = found.by_phenomenon() if by == "phenomenon" else found.by_paradigm()
    several = len(found.names) > 1
    table = Table()
    table.add_column(by, overflow="fold")
    table.add_column("pairs", justify="right", no_wrap=True)
    shown = {f"accuracy_{name}" if several else "accuracy": "z.2f" for name in found.names}
    headers = found.names if several else ["accuracy"]
    share = found.unknown_share()
    unknown = [name for name in found.names if share[name]]
    for header in headers:
        table.add_column(escape(header), justify="right", overflow="fold", min_width=6)
    for name in unknown:
        header = f"<unk> % {name}" if several else "<unk> %"
        table.add_column(escape(header), justify="right", overflow="fold", min_width=6)
        shown[f"unknown_{name}" if several else "unknown"] = "z.2f"
    for row in range(len(columns["pairs"])):
        table.add_row(*_cells(columns, by, row, shown))
    total = [f"{value:z.2f}" for value in found.accuracy.values()]
    total += [f"{share[name]:z.2f}" for name in unknown]
    table.add_section()
    table.add_row("mean over paradigms", f"{len(found.pairs):,}", *total)
    return table


def _cells(columns: Columns, by: str, row: int, shown: dict[str, str]) -> list[str]:
    values = [format(columns[column][row], form) for column, form in shown.items()]
    return [escape(columns[by][row] or "-"), f"{columns['pairs'][row]:,}", *values]


def notes(found: PairScores) -> list[str]:
    """Return the lines below the table: ties, and how sentences were scored."""
    lines = []
    if any(found.ties.values()):
        ties = ", ".join(f"{name} {count:,}" for name, count in found.ties.items())
        lines.append(f"ties, of {len(found.pairs):,} pairs: {ties}")
    if len(set(found.protocols)) == 1:
        return [*lines, found.protocols[0]]
    return [*lines, *(f"{n}: {text}" for n, text in zip(found.names, found.protocols, strict=True))]


class _PairsModule(ModuleType):
    """The module is a function too, because the command and `jaxlm.pairs` have one name."""

    def __call__(self, *arguments: Any, **settings: Any) -> PairScores:
        return pairs(*arguments, **settings)


if __name__ == "__main__":
    cli.run(main)
else:
    sys.modules[__name__].__class__ = _PairsModule
