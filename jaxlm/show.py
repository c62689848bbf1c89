"""python -m jaxlm.show: a page that shows what a model does inside, in one file."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxlm.commands import cli
from jaxlm.data.files import write_text
from jaxlm.inspection.pages.building import page
from jaxlm.inspection.pages.views import Options
from jaxlm.runs.run import load

ABOUT = """A page that shows what a model does inside: one file, which needs no network.

Examples:
  python -m jaxlm.show runs/lstm-ptb "the price of the stock"
"""


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.show`."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of runs, and the text, in quotes."""
    out: Path = Path("page.html")
    """The file to write."""
    lang: str = "en"
    """Language of the page at first: en or zh."""
    start: str | None = None
    """fresh: from the model's initial state; warm: after a stretch of the training text (none:
    warm for a run that was trained on a stream of text)."""


def main(argv: Sequence[str]) -> int:
    """Write the page."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.show", about=ABOUT)
    folders = [word for word in command.runs if Path(word).is_dir()]
    text = next((word for word in command.runs if word not in folders), "")
    runs = [load(folder) for folder in folders]
    write_text(command.out, page(runs, text, Options(command.start, command.lang)))
    print(command.out)
    return 0


if __name__ == "__main__":
    cli.run(main)
