"""python -m jaxlm.show: a page that shows what a model does inside, in one file."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

    import os

    # NumPy reads this when it is imported. For matrices of a few hundred rows its threads cost more
    # than they save, above all beside the threads of JAX: a page took more than twice the CPU time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import datetime
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.data.files import is_same_file, why_unwritable, write_text
from jaxlm.errors import SettingError, UserError, choose, reason
from jaxlm.inspection.figures import READING, check_figure, figure
from jaxlm.inspection.pages.building import CHARACTERS, LANGUAGES, labels_of, page, shown
from jaxlm.inspection.pages.numbers import check_ending, write_numbers
from jaxlm.inspection.pages.texts import default_text, text_from_file
from jaxlm.inspection.pages.views import Options
from jaxlm.inspection.pieces import read, unknown_note
from jaxlm.inspection.play.building import play_page, shelves_of
from jaxlm.runs.folder import CONFIG
from jaxlm.runs.run import Run, load_all

ABOUT = """A page that shows what a model does inside: one HTML file, which needs no network.

Examples:
  python -m jaxlm.show runs/lstm-ptb "the price of the stock fell sharply"
  python -m jaxlm.show runs/lstm-ptb runs/ngram-ptb --text article.txt --out article.html
  python -m jaxlm.show runs/lstm-toy "我 讨厌" --lang zh
  python -m jaxlm.show runs/lstm-ptb "the price of the stock" --figure gates --out gates.pdf
  python -m jaxlm.show runs/lstm-ptb runs/ngram-ptb --play --out play.html
"""
# Longer words are cut short in an error.
LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.show`."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs; then the text, in quotes (none: the beginning of the first run's validation
    text)."""
    text: Path | None = None
    """Read the text from this file."""
    encoding: str | None = None
    """With --text: the encoding of the file, such as gb18030 (none: UTF-8)."""
    out: Path | None = None
    """The file to write (none: page.html, play.html with --play, or with --figure the figure's name
    and .pdf)."""
    figure: str | None = None
    """Draw a figure for a paper in place of the page: surprise, gates, gradients, map or curve,
    into a .pdf, .svg or .png file (extra: plots)."""
    layer: str | None = None
    """With --figure gates: the layer, such as layers_0 (none: the last)."""
    play: bool = False
    """Write a page to play with in place of the page: the models run in the browser."""
    dtype: str | None = None
    """With --play: the type of the weights in the page, float16 or float32 (none: float16)."""
    lang: str | None = None
    """Language of the page at first, en or zh; the page has a switch (none: en)."""
    data: Path | None = None
    """Write the numbers to this file too, .npz or .json, of the whole text."""
    start: str | None = None
    """fresh: from the model's initial state; warm: after a stretch of the training text (none:
    warm for a run that was trained on a stream of text)."""
    word: str | None = None
    """Show the senses of this word (none: words that the text has at least twice)."""
    date: str | None = None
    """Date at the foot of the page (none: today, or that of SOURCE_DATE_EPOCH)."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""


def main(argv: Sequence[str]) -> int:
    """Write the page or the figure, and print where it is."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.show", about=ABOUT)
    page_name = "play.html" if command.play else "page.html"
    out = command.out or Path(page_name if command.figure is None else f"{command.figure}.pdf")
    check_play(command)
    if command.layer is not None and command.figure != "gates":
        raise SettingError("layer", command.layer, "has no effect without `figure` gates")
    if command.word is not None and (command.play or command.figure is not None):
        raise SettingError("word", command.word, "has no effect without the page: leave it out")
    folders, text = runs_and_text(command.words)
    lang = command.lang or LANGUAGES[0]
    choose(dict.fromkeys(LANGUAGES), lang, "lang")
    if command.text is not None and text is not None:
        raise SettingError("text", command.text, "has no effect with a text: leave one of them out")
    if command.encoding is not None and command.text is None:
        raise SettingError("encoding", command.encoding, "has no effect without `text`")
    for path in filter(None, (out, command.data)):
        check_writable(path)
        if command.text is not None and is_same_file(path, command.text):
            raise UserError(f"{path} is the text: give another name")
    if command.data is not None and is_same_file(out, command.data):
        raise SettingError("data", command.data, "is the file of the page too: give another name")
    if command.data is not None:
        check_ending(command.data)
    if command.figure is not None:
        check_figure(command.figure, out)
        for name in ("data", "date", "lang"):
            if (value := getattr(command, name)) is not None:
                raise SettingError(name, value, "has no effect with `figure`: leave it out")
        if command.figure not in READING and (text is not None or command.text is not None):
            why = f"needs no text: leave out {command.text or 'the text'}"
            raise SettingError("figure", command.figure, why)
        if command.figure not in READING and command.start is not None:
            why = f"has no effect with `figure` {command.figure}, which reads no text: leave it out"
            raise SettingError("start", command.start, why)
    date = date_of(command.date)
    load_plugin(command.plugin)
    runs = load_all(folders, cli.say, checkpoint_folder=command.checkpoint_folder)
    if command.play:
        return write_play(command, runs, text, out, {"command": command_line(argv), "date": date})
    if command.figure is not None:
        return draw_figure(command, runs, text, out)
    notes = []
    if command.text is not None:
        text = text_from_file(command.text, command.encoding)
    elif text is None:
        text, origin = default_text(runs[0])
        notes.append(origin)
    if not text.strip():
        raise UserError("the text is empty: give a text with a word")
    part = shown(text)
    for run in runs:
        # An error, if a run can read nothing of the text, comes before a model works.
        read(run, part, command.start)
        if unknown := unknown_note(run, part):
            cli.say(f"{run.name}: {unknown}")
    foot = {"command": command_line(argv), "date": date}
    options = Options(command.start, lang, labels_of(runs), word=command.word)
    content = page(runs, text, options, notes=notes, foot=foot)
    for source in notes:
        cli.say(source["en"])
    if len(part) < len(text):
        whole = "" if command.data else "; `data` writes the numbers of the whole text"
        cli.say(
            f"the text has {len(text):,} characters, and the page shows the first "
            f"{CHARACTERS:,}{whole}"
        )
    if command.data is not None:
        try:
            for line in write_numbers(command.data, runs, text, options):
                cli.say(line)
        except OSError as error:
            raise _unwritable(command.data, error) from None
    try:
        write_text(out, content)
    except OSError as error:
        raise _unwritable(out, error) from None
    if command.data is not None:
        print(f"numbers: {command.data}")
    print(f"page: {out} (open it in a browser)")
    return 0


def check_play(command: Command) -> None:
    """Raise SettingError for flags that have no effect with `play`, or without it."""
    if not command.play and command.dtype is not None:
        raise SettingError("dtype", command.dtype, "has no effect without `play`: leave it out")
    for name in ("figure", "data") if command.play else ():
        value = getattr(command, name)
        if value is not None:
            raise SettingError(name, value, "has no effect with `play`: leave one of them out")


def write_play(
    command: Command, runs: Sequence[Run], text: str | None, out: Path, foot: dict[str, str]
) -> int:
    """Write the page to play with, and print where it is.

    Args:
      command: the flags.
      runs: the runs.
      text: the text after the runs, which stands in the page at first; None if there is none.
      out: the file.
      foot: lines at the foot of the page by name.
    """
    if command.text is not None:
        text = text_from_file(command.text, command.encoding)
    shelves = shelves_of(runs, text or "")
    foot |= {"runs": ", ".join(run.name for run in runs)}
    content = play_page(
        shelves,
        lang=command.lang or LANGUAGES[0],
        dtype=command.dtype or "float16",
        start=command.start,
        foot=foot,
    )
    try:
        write_text(out, content)
    except OSError as error:
        raise _unwritable(out, error) from None
    print(f"page: {out} (open it in a browser, and type)")
    return 0


def draw_figure(command: Command, runs: Sequence[Run], text: str | None, out: Path) -> int:
    """Draw the figure, and print where it is.

    Args:
      command: the flags.
      runs: the runs.
      text: the text after the runs; None if there is none.
      out: the file.
    """
    assert command.figure is not None
    if command.text is not None:
        text = text_from_file(command.text, command.encoding)
    elif text is None and command.figure in READING:
        text, note = default_text(runs[0])
        cli.say(note["en"])
    options = {"start": command.start, "layer": command.layer}
    for line in figure(command.figure, runs, text or "", out=out, **options):
        cli.say(line)
    print(f"figure: {out}")
    return 0


def runs_and_text(words: Sequence[str]) -> tuple[list[Path], str | None]:
    """Return the folders of runs among the words of a command, and the text after them.

    The last word is the text, unless it is the first word, a folder, or a path in a folder that
    exists.

    Raises:
      UserError: if there is no run, and for a folder that is not there or holds no run.
    """
    if not words:
        raise UserError("give the folder of a run: python -m jaxlm.show RUN [RUN ...] [TEXT]")
    *first, last = words
    text = None
    if first and not _like_a_folder(last):
        words, text = first, last
    for word in words:
        if not os.path.isfile(os.path.join(word, CONFIG)):
            shown_word = word if len(word) <= LONGEST_SHOWN else f"{word[:LONGEST_SHOWN]}..."
            why = "does not exist"
            if os.path.exists(word):
                why = "holds no run" if os.path.isdir(word) else "is a file; --text reads it"
            raise UserError(f"{shown_word!r} {why}: give folders of runs, then a text in quotes")
    return [Path(word) for word in words], text


def _like_a_folder(word: str) -> bool:
    """Return whether a word names a folder: one that exists, or one beside others."""
    if os.path.isdir(word):
        return True
    parent, name = os.path.split(word.rstrip(os.sep))
    return bool(parent and name) and not any(map(str.isspace, word)) and os.path.isdir(parent)


def check_writable(path: Path) -> None:
    """Raise UserError if a file cannot be written, before a model works for it."""
    if str(path) == "-":
        raise UserError(
            "- is not the name of a file, and nothing is written to standard output: give a name"
        )
    why = why_unwritable(path)
    if why is not None:
        raise UserError(f"{path} {why}")


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {reason(error)}")


def date_of(given: str | None) -> str:
    """Return the date for the foot of the page.

    It is `given`, or the day of SOURCE_DATE_EPOCH (seconds since 1970), or today.
    """
    if given is not None:
        return given
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch.isdigit():
        return str(datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).date())
    return str(datetime.datetime.now(datetime.UTC).date())


def command_line(argv: Sequence[str]) -> str:
    """Return the command that makes this page again, with a long text cut short."""
    words = (
        word if len(word) <= 4 * LONGEST_SHOWN else f"{word[:LONGEST_SHOWN]}…" for word in argv
    )
    return f"python -m jaxlm.show {shlex.join(words)}"


if __name__ == "__main__":
    cli.run(main)
