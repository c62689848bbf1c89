"""python -m jaxlm.predict: the most probable next words after a context."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxlm.commands import cli
from jaxlm.commands.mixing import describe_weights, load_mixed
from jaxlm.commands.plugins import load_plugin
from jaxlm.commands.starts import say_start
from jaxlm.data.tokenizers import quoted
from jaxlm.errors import UserError, check_at_least
from jaxlm.evaluation.generation import UnknownWords, encode_context, next_ids, sources
from jaxlm.runs.run import Run

ABOUT = """The most probable next words after a context, with their probabilities.

Examples:
  python -m jaxlm.predict runs/nplm-toy "我 讨厌"
  python -m jaxlm.predict runs/lstm-ptb "the stock" "the price of" --top 10
  python -m jaxlm.predict runs/lstm-ptb "the stock" --mix-with runs/ngram-ptb --weights .7,.3
  cat contexts.txt | python -m jaxlm.predict runs/lstm-ptb
"""
# Characters in the bar of probability 1.
BAR = 30


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.predict`."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    contexts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Contexts, each in quotes (none: read from standard input, one per line)."""
    mix_with: tuple[Path, ...] = ()
    """Folders of more runs, whose probabilities are interpolated with those of the run."""
    weights: str | None = None
    """With --mix-with: weights, such as .7,.3, the run's own first (none: the best on the
    validation split, by EM)."""
    top: int = 5
    """Number of words to show."""
    start: str | None = None
    """fresh: from the model's initial state; warm: after a stretch of the training text (none:
    warm for a run that was trained on a stream of text)."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""


def main(argv: Sequence[str]) -> int:
    """Print a bar chart for each context."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.predict", about=ABOUT)
    if not command.contexts and sys.stdin.isatty():
        raise UserError(
            'give a context: python -m jaxlm.predict RUN "我 讨厌", or lines on standard input'
        )
    if command.weights is not None and not command.mix_with:
        raise UserError("--weights needs --mix-with: add it, or leave --weights out")
    load_plugin(command.plugin)
    folders = [command.run, *command.mix_with]
    run = load_mixed(folders, command.weights, command.checkpoint_folder)
    say_start(run, command.start)
    cli.say(describe_weights(run))
    contexts: Iterable[str] = command.contexts or read_contexts(sys.stdin)
    console = Console(highlight=False)
    unknown = UnknownWords(run)
    for context in contexts:
        show(console, run, context, command.top, command.start, unknown)
    return 0


def read_contexts(lines: Iterable[str]) -> Iterator[str]:
    """Yield each line without its line break, and the first without a byte order mark.

    Raises:
      UserError: for bytes that are not text in the encoding of standard input.
    """
    try:
        for number, line in enumerate(lines):
            yield (line if number else line.removeprefix("\ufeff")).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not {error.encoding}: byte 0x{error.object[error.start]:02x} at "
            f"offset {error.start}; give text in {error.encoding}"
        ) from None


def show(
    console: Console,
    run: Run,
    context: str,
    count: int,
    start: str | None = None,
    unknown: UnknownWords | None = None,
) -> None:
    """Print the context, notes if the model sees another context, and a bar for each word.

    The model's answer to a context of words that it has learnt nothing about is printed as "?".

    Args:
      console: where to print.
      run: the trained run.
      context: text before the next word.
      count: number of words.
      start: the state before the context; see `next_words`.
      unknown: tells the unknown words of `run`; None for a new UnknownWords.
    """
    check_at_least("count", count, 1)
    unknown = unknown or UnknownWords(run)
    encoded = encode_context(run, context, start)
    best = next_ids(run, encoded, count)
    words = [quoted(run.tokenizer.token_text(index)) for index, _ in best]
    note = unknown.note(context)
    answer = "?" if note and unknown.never_trained else words[0]
    asked = context if context.isprintable() else repr(context)
    console.print(escape(f"{asked} -> {answer}"), soft_wrap=True)
    guess = ""
    if best[0][0] == run.vocabulary.unk_id:
        guess = f"the model expects {words[0]}, which stands for every word outside the vocabulary"
    for text in filter(None, [note, encoded.note, guess]):
        console.print(f"note: {escape(text)}", soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    block = "█" if console.encoding.startswith("utf") else "#"
    origins = sources(run, encoded, [index for index, _ in best])
    for word, (_, probability), origin in zip(words, best, origins, strict=True):
        bar = block * round(BAR * probability)
        table.add_row(f"  {escape(word)}", f"{probability:.4f}", *filter(None, [origin]), bar)
    console.print(table)


if __name__ == "__main__":
    cli.run(main)
