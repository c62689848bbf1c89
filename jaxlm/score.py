"""python -m jaxlm.score: the surprisal of each word of sentences, under one run or several runs."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.data.columns import whole_lines_note
from jaxlm.data.reading import Reading
from jaxlm.data.sources import EmbeddedText
from jaxlm.data.splitting import NONE, check_split
from jaxlm.data.text import lines_of_file
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.sentences import check_rows, score, score_all, table_of
from jaxlm.evaluation.tables import Columns, check_out, tab_separated, write_table
from jaxlm.runs.run import load_all

ABOUT = """The surprisal of each word of sentences, in bits: a table with a row a word.

Sub-words and characters are summed to words, so runs over different tokens stand in one table.

Examples:
  python -m jaxlm.score runs/lstm-ptb --lines sentences.txt
  python -m jaxlm.score runs/ngram-ptb runs/lstm-ptb --lines sentences.txt --out scores.tsv
  python -m jaxlm.score runs/lstm-ptb --lines sentences.txt --by sentence --out scores.tsv
  echo "the cat sat" | python -m jaxlm.score runs/lstm-ptb --lines -
"""
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.score`."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""
    lines: Path | None = None
    """File with a sentence a line; - reads standard input."""
    out: Path | None = None
    """File of the table, separated by tabs (none: the table is printed)."""
    by: str = "word"
    """word: a row a word; sentence: a row a sentence."""
    start: str | None = None
    """State before each sentence: fresh, the initial state; warm, after a stretch of the training
    text; carried, from the sentence before (none: warm for a run that was trained on a stream of
    text, else fresh)."""
    first: bool = True
    """Count the first word of each sentence."""
    end: bool = True
    """Count the end of each sentence, as a row <eos>."""
    words: str | None = None
    """spaces: words are divided by white space; characters: each character is a word (none:
    characters for a text without spaces between its words)."""
    split: str = NONE
    """Split punctuation, 's and n't from words, as in the training text of a run over words:
    treebank (did n't), wikitext (didn 't) or none. The rows stay those of the words as written."""
    format: str = "wide"
    """wide: the columns of each run side by side; long: a row a run; lm-zoo: a row a token of one
    run."""
    detail: bool = True
    """Add the columns entropy and rank."""
    encoding: str | None = None
    """Encoding of the file (none: UTF-8)."""
    column: str | None = None
    """Column with the sentences, if the file is a table."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""


def main(argv: Sequence[str]) -> int:
    """Write or print the table; say on standard error how it was counted."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.score", about=ABOUT)
    check_flags(command)
    assert command.lines is not None
    if command.lines == STANDARD_INPUT:
        lines = lines_of_input(command)
    else:
        lines = lines_of_file(command.lines, command.encoding, command.column, "lines")
    sentences = [line.rstrip("\n") for line in lines]
    load_plugin(command.plugin)
    runs = load_all(command.runs, checkpoint_folder=command.checkpoint_folder)
    found = score_all(
        runs,
        sentences,
        start=command.start,
        words=command.words,
        first=command.first,
        end=command.end,
        detail=command.detail and command.by == "word" and command.format != "lm-zoo",
        split=command.split,
    )
    cli.say(whole_lines_note(command.lines, command.column))
    table = table_of(found, command.by, command.format)
    for scores in found:
        note = f"{scores.run.name}: {scores.protocol}"
        print(note, file=sys.stderr, flush=True)
    if command.out is None:
        for line in tab_separated(table):
            print(line)
    else:
        write_table(table, command.out)
        rows = len(next(iter(table.values())))
        told = cli.report_stream(command.out)
        print(f"scores: {command.out} ({rows:,} rows)", file=told)
    return 0


def lines_of_input(command: Command) -> Iterator[str]:
    """Return the lines of standard input. `lines_of_file` returns the lines of a file alike."""
    if command.column is not None:
        why = "is for a table in a file, not for standard input: write the table to a file"
        raise SettingError("column", command.column, why)
    Reading(command.encoding).check()
    encoding = command.encoding or "UTF-8"
    # A program may put another stream in the place of standard input, which has no bytes.
    bytes_of = getattr(sys.stdin, "buffer", None)
    try:
        text = bytes_of.read().decode(encoding) if bytes_of else sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not {encoding}: byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}; give its `encoding`"
        ) from None
    return EmbeddedText(text).lines()


def check_flags(command: Command) -> None:
    """Raise UserError for flags that are missing or cannot be used."""
    if not command.runs:
        raise UserError("name at least one run: python -m jaxlm.score RUN --lines sentences.txt")
    if command.lines is None:
        raise UserError(
            "give the sentences: --lines FILE, a sentence a line, or --lines - for standard input"
        )
    check_rows(command.by, command.format)
    if command.format == "lm-zoo" and len(command.runs) > 1:
        raise SettingError(
            "format", "lm-zoo", f"holds one run, not {len(command.runs)}: choose long or wide"
        )
    check_split(command.split)
    check_out(command.out, command.lines)


class _ScoreModule(ModuleType):
    """The module is a function too, because the command and `jaxlm.score` have one name."""

    def __call__(self, *arguments: Any, **settings: Any) -> Columns:
        return score(*arguments, **settings)


if __name__ == "__main__":
    cli.run(main)
else:
    sys.modules[__name__].__class__ = _ScoreModule
