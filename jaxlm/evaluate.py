"""python -m jaxlm.evaluate: the exact perplexity of runs, and how it was counted."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxlm.commands import cli
from jaxlm.commands.mixing import parse_weights
from jaxlm.commands.plugins import load_plugin
from jaxlm.data.columns import whole_lines_note
from jaxlm.data.corpora import corpus_name
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.perplexity import (
    Report,
    open_split,
    report,
    score_split,
    write_per_token,
)
from jaxlm.evaluation.tables import check_out
from jaxlm.runs.log import shown_perplexity
from jaxlm.runs.run import Run, load_all
from jaxlm.runs.starts import by_lines

if TYPE_CHECKING:
    from jaxlm.evaluation.adaptation import Adaptation
    from jaxlm.evaluation.mixing import Mixed

ABOUT = """Exact perplexity of runs: every token is scored once, and the report says how.

Examples:
  python -m jaxlm.evaluate runs/lstm-ptb
  python -m jaxlm.evaluate runs/nplm-ptb runs/lstm-ptb --split valid
  python -m jaxlm.evaluate runs/lstm-ptb --text my.txt --per-token scores.tsv
  python -m jaxlm.evaluate runs/ngram-ptb runs/lstm-ptb --lines --text sentences.txt
  python -m jaxlm.evaluate runs/ngram-ptb runs/lstm-ptb --mix --unigram-cache 80
  python -m jaxlm.evaluate runs/lstm-ptb --cache 500 --dynamic --temperature auto
"""
# Flags of the fields of Adaptation that have another name here.
FLAGS = {"flatness": "cache_flatness", "share": "cache_share", "samples": "mc_samples"}


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.evaluate`."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""
    corpus: str | None = None
    """Name or path of a corpus (none: the corpus that each run was trained on)."""
    split: str | None = None
    """train, valid or test (none: the first of test, valid and train that exists)."""
    text: Path | None = None
    """A text file to evaluate as a whole, instead of a corpus."""
    lines: bool = False
    """Score each line on its own, from the same state, also in runs that read a stream."""
    start: str | None = None
    """With --lines: fresh, the initial state, or warm, after a stretch of the training text (none:
    warm for a run that was trained on a stream of text)."""
    encoding: str | None = None
    """Encoding of the corpus or the text (none: the run's own for its own corpus, else UTF-8)."""
    column: str | None = None
    """Column of the corpus or the text, if it is a table (none: as for --encoding)."""
    per_token: Path | None = None
    """File for a table of all tokens: log-probability, surprisal, rank, entropy, text (one run)."""
    mix: bool = False
    """Also interpolate the probabilities of the runs: the table shows each run and the mixture."""
    weights: str | None = None
    """With --mix: weights, such as .5,.5 (none: the best on the validation split, by EM)."""
    unigram_cache: int | None = None
    """With --mix: add a cache of the text so far; a token's weight halves every INT tokens."""
    temperature: str | None = None
    """Divide the logits by this number, or auto: the best on the validation split."""
    cache: int = 0
    """Continuous cache: keep this many hidden states and the tokens after them (0: no cache)."""
    cache_flatness: float | None = None
    """How much more a similar cached state counts (none: the best on the validation split)."""
    cache_share: float | None = None
    """Weight of the cache in the probability (none: the best on the validation split, by EM)."""
    dynamic: bool = False
    """Dynamic evaluation: gradient steps on the text, each token scored before its gradient."""
    dynamic_rule: str = "rms"
    """Step of dynamic evaluation: rms (scaled by each parameter's training gradients) or sgd."""
    dynamic_lr: float | None = None
    """Learning rate of the steps (none: the best on the beginning of the validation split)."""
    dynamic_decay: float | None = None
    """Decay to the trained parameters, per step (none: as for --dynamic-lr)."""
    dynamic_steps: int = 10
    """Tokens from one step to the next."""
    mc_samples: int = 0
    """Average the probabilities over this many dropout masks (0: no dropout)."""
    seed: int = 0
    """Seed of the dropout masks of --mc-samples."""


def main(argv: Sequence[str]) -> int:
    """Score each run and print one table."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.evaluate", about=ABOUT)
    check_flags(command)
    command = replace(command, corpus=command.corpus and corpus_name(command.corpus))
    try:
        reports, mixed = measure(command)
    except UserError as error:
        raise UserError(adaptation_flags(str(error))) from None
    if command.text is not None:
        cli.say(whole_lines_note(command.text, command.column))
    console = Console(file=cli.report_stream(command.per_token))
    table, left_out = result_table(reports, console.width)
    (text, *others) = dict.fromkeys(item.split for item in reports)
    if not others:
        console.print(f"text: {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    if left_out:
        text = f"left out, as they need a wider terminal: {', '.join(left_out)}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    for line in filter(None, (item.without_unknown for item in reports)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for item in reports:
        if item.impossible:
            noun = "token" if item.impossible == 1 else "tokens"
            text = f"{item.run} gives {item.impossible:,} {noun} probability 0"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    protocols = list(dict.fromkeys(item.protocol for item in reports))
    if mixed:
        # The protocol of the mixture may consist of the protocols of the runs.
        whole = mixed.together.protocol
        protocols = [text for text in protocols if text == whole or text not in whole]
    for protocol in protocols:
        console.print(protocol, highlight=False, markup=False, soft_wrap=True)
    if mixed:
        console.print(str(mixed), highlight=False, markup=False, soft_wrap=True)
    return 0


def check_flags(command: Command) -> None:
    """Raise UserError for flags that cannot be used together."""
    if not command.runs:
        raise UserError("name at least one run: python -m jaxlm.evaluate runs/nplm-toy")
    check_out(command.per_token, command.text, command.corpus, setting="per_token")
    if command.per_token and len(command.runs) > 1:
        raise UserError(
            f"--per-token takes one run, not {len(command.runs)}: evaluate each run by itself"
        )
    if command.text and (command.corpus or command.split):
        raise UserError("--text replaces the corpus: leave out --corpus and --split")
    if command.start is not None and not command.lines:
        raise UserError("--start is the state before each line: add --lines, or leave it out")
    if not command.mix and (command.weights or command.unigram_cache is not None):
        raise UserError("--weights and --unigram-cache need --mix: add it, or leave them out")
    if command.mix and command.per_token:
        raise UserError("--per-token takes one run, and --mix several: leave one of them out")


def measure(command: Command) -> tuple[list[Report], "Mixed | None"]:
    """Return the reports for the table, and the mixture if the command asks for a mixture."""
    adaptation = parse_adaptation(command)
    if adaptation and command.lines:
        raise UserError(
            "--temperature, --cache, --dynamic and --mc-samples read one stream: leave out --lines"
        )
    if adaptation and command.per_token:
        raise UserError(
            "--per-token needs the run as it was trained: leave out --temperature, --cache, "
            "--dynamic and --mc-samples"
        )
    load_plugin(command.plugin)
    runs = load_all(command.runs, checkpoint_folder=command.checkpoint_folder)
    if command.text is None and command.corpus is None:
        own = [run.settings.get("text", {}).get("corpus") for run in runs]
        check_out(command.per_token, *own, setting="per_token")
    if command.lines:
        runs = [by_lines(run, command.start) for run in runs]
    where: dict[str, Any] = {
        "corpus": command.corpus,
        "split": command.split,
        "text": command.text,
    }
    if (adaptation or command.mix) and (command.encoding or command.column):
        # Both also read other splits, of other files.
        raise UserError(
            "--encoding and --column are not for --mix and adapted runs: convert the text to a "
            "UTF-8 file first"
        )
    if command.mix:
        from jaxlm.evaluation.mixing import mixture

        mixed = mixture(
            runs,
            weights=None if command.weights is None else parse_weights(command.weights),
            unigram_cache=command.unigram_cache,
            adaptation=adaptation,
            **where,
        )
        return [*mixed.alone, mixed.together], mixed
    if adaptation:
        # Each evaluation can take hours.
        for run in runs:
            adaptation.check_run(run)
    reports = [evaluate(command, run) for run in runs]
    if adaptation:
        from jaxlm.evaluation.adaptation import adapted

        reports += [adapted(run, adaptation, **where) for run in runs]
    return reports, None


def parse_adaptation(command: Command) -> "Adaptation | None":
    """Return the adaptation that the flags ask for, or None. Raise UserError for a bad flag."""
    parts_of = {
        "cache": ("cache_flatness", "cache_share"),
        "dynamic": ("dynamic_rule", "dynamic_lr", "dynamic_decay", "dynamic_steps"),
        "mc_samples": ("seed",),
    }
    for whole, parts in parts_of.items():
        for part in parts:
            if not getattr(command, whole) and getattr(command, part) != getattr(Command, part):
                raise UserError(f"`{part}` belongs to `{whole}`: add it, or leave `{part}` out")
    if command.temperature is None and not any(getattr(command, whole) for whole in parts_of):
        return None
    from jaxlm.evaluation.adaptation import Adaptation

    if command.dynamic and command.dynamic_rule == "none":
        why = "evaluates without `dynamic`: leave both out, or choose another rule"
        raise SettingError("dynamic_rule", command.dynamic_rule, why)
    text = command.temperature or "1"
    try:
        temperature = None if text == "auto" else float(text)
    except ValueError:
        temperature = math.nan
    if temperature is not None and not temperature > 0:
        raise SettingError("temperature", repr(text), "must be a number above 0, or auto")
    adaptation = Adaptation(
        temperature,
        command.cache,
        command.cache_flatness,
        command.cache_share,
        dynamic=command.dynamic_rule if command.dynamic else "none",
        dynamic_lr=command.dynamic_lr,
        dynamic_decay=command.dynamic_decay,
        dynamic_steps=command.dynamic_steps,
        samples=command.mc_samples,
        seed=command.seed,
    )
    adaptation.check()
    return adaptation


def adaptation_flags(message: str) -> str:
    """Return a message with the fields of Adaptation renamed to the flags of this command."""
    return re.sub(r"`(\w+)`", lambda match: f"`{FLAGS.get(match[1], match[1])}`", message)


def evaluate(command: Command, run: Run) -> Report:
    """Return the report of one run; write its table of tokens if the command asks for it."""
    split = open_split(
        run, command.corpus, command.split, command.text, command.encoding, command.column
    )
    scores = score_split(run, split, detail=command.per_token is not None)
    if command.per_token:
        write_per_token(run, split, scores, command.per_token)
    return report(run, split, scores)


# Columns of the table, with the unit that the bits of the whole text are divided by.
UNITS = {"bits/token": "tokens", "/word": "words", "/char": "characters", "/byte": "bytes"}
# Columns that are left out if the table is too wide, the first one first.
LEFT_OUT = ("/byte", "/char", "/word", "bits/token", "<unk>")
# A name gets at least this width before a column is left out, if it needs it.
NAME_WIDTH = 18


def result_table(reports: Sequence[Report], width: int) -> tuple[Table, list[str]]:
    """Return a table with one row per run, and the columns that were left out.

    The bits of the whole text are divided by its tokens, words, characters and bytes. The texts
    have a column if they differ.

    Args:
      reports: the reports.
      width: width of the terminal, in characters. Columns are left out, and names shortened, so
        that the table fits.
    """
    columns = {
        "tokens": [f"{item.tokens:,}" for item in reports],
        "<unk>": [f"{item.unknown:,}" for item in reports],
        "nats/token": [f"{item.nats_per_token:z.4f}" for item in reports],
        "perplexity": [shown_perplexity(item.perplexity) for item in reports],
    }
    for header, unit in UNITS.items():
        columns[header] = [_bits_per(item, unit) for item in reports]
    names = {"run": [item.run for item in reports]}
    if len({item.split for item in reports}) > 1:
        names["text"] = [item.split for item in reports]
    # A column has a frame and two blanks beside its cells, and the table one more frame.
    needed = {header: 3 + _width(header, cells) for header, cells in columns.items()}
    wanted = sum(3 + min(NAME_WIDTH, _width(header, cells)) for header, cells in names.items())
    unused = [header for header in UNITS if set(columns[header]) == {"-"}]
    left_out = []
    for header in (*unused, *LEFT_OUT):
        if header in columns and (header in unused or 1 + wanted + sum(needed.values()) > width):
            del columns[header], needed[header]
            left_out.append(header)
    table = Table()
    left = max(8 * len(names), width - 1 - 3 * len(names) - sum(needed.values()))
    for index, header in enumerate(names):
        # A narrow name leaves its room to the next one.
        room = left // (len(names) - index)
        names[header] = shortened(names[header], room)
        left -= min(room, _width(header, names[header]))
        table.add_column(header, overflow="fold", max_width=room)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for cells in zip(*names.values(), *columns.values(), strict=True):
        table.add_row(*map(escape, cells))
    return table, [header for header in LEFT_OUT if header in left_out and header not in unused]


def _bits_per(item: Report, unit: str) -> str:
    """Return the bits of a text divided by its length in `unit`; "-" if the length is unknown."""
    count = item.tokens if unit == "tokens" else getattr(item.size, unit, 0)
    return f"{item.bits / count:z.4f}" if count else "-"


def _width(header: str, cells: Sequence[str]) -> int:
    """Return the width of a column, in characters of a terminal."""
    return max(map(cell_len, (header, *cells)))


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Return names without the folders that they share, if one is wider than `width`.

    Example:
      >>> shortened(["experiments/deep/lstm-1", "experiments/deep/lstm-2"], 10)
      ['…/lstm-1', '…/lstm-2']
    """
    if max(map(cell_len, names)) <= width:
        return list(names)
    folders = [name.split("/")[:-1] for name in names if "/" in name]
    levels = zip(*folders, strict=False)
    shared = len(list(itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)))
    return [
        "/".join(["…", *name.split("/")[shared:]]) if shared and "/" in name else name
        for name in names
    ]


if __name__ == "__main__":
    cli.run(main)
