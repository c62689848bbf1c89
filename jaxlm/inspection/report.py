"""The page that training ends with: the learning curve, the layers, samples and a first text."""

import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.data.files import write_text
from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.inspection.pages.building import page
from jaxlm.inspection.pages.views import VIEWS, Options
from jaxlm.runs.run import Run

REPORT_VIEWS = ("learning", "surprise", "next", "gates", "about")
"""The views of a report, in their order. A view that has nothing to show is left out."""
# The first text is at most this long, so that a report is written in about a second.
CHARACTERS = 240
# A page has eight colours for runs.
MOST_RUNS = 8


def write_report(
    runs: Sequence[Run], path: str | Path, text: Text, *, lang: str = "en", date: str | None = None
) -> None:
    """Write the page of a trained run, or of several runs of one command, as one HTML file.

    The page shows how the runs learned, what their layers are, and how they read the first lines of
    the validation text. Nobody ever finds the file half written.

    Example:
      >>> import tempfile, jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     jaxlm.inspection.write_report([run], Path(folder) / "report.html", text)
      ...     [path.name for path in Path(folder).iterdir()]
      ['report.html']

    Args:
      runs: the runs; of more than eight the first eight are shown, and the page says so.
      path: the file.
      text: the corpus of the runs.
      lang: language of the page at first, "en" or "zh".
      date: the date at the foot of the page; None for now.
    Raises:
      OSError: if the file cannot be written.
    """
    shown = list(runs[:MOST_RUNS])
    content = page(
        shown,
        first_text(shown[0], text),
        Options(lang=lang),
        foot=_foot(shown[0], len(runs), date),
        views=[name for name in REPORT_VIEWS if name in VIEWS],
        keep_missing=False,
    )
    write_text(Path(path), content)


def first_text(run: Run, text: Text) -> str:
    """Return the first lines of the validation text, or of the training text if there is none.

    The training text is taken also if the run cannot read the validation text.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> first_text(run, text).splitlines()
      ['我 喜欢 玩具', '我 爱 爸爸', '我 讨厌 挨打']
    """
    for split in filter(None, (text.valid, text.train)):
        lines: list[str] = []
        for line in split.source.lines():
            lines.append(line.rstrip("\n"))
            if sum(map(len, lines)) >= CHARACTERS:
                break
        found = _cut("\n".join(lines).strip("\n"))
        try:
            if len(run.tokenizer.encode_context(found)):
                return found
        except UserError:
            continue
    raise UserError("the corpus has no line that the run can read")


def _cut(text: str) -> str:
    """Return the first CHARACTERS of a text; it ends with a whole word if it has words."""
    if len(text) <= CHARACTERS:
        return text
    cut = text[:CHARACTERS]
    words = cut.rpartition(" ")[0]
    return words if len(words) > CHARACTERS // 2 else cut


def _foot(run: Run, count: int, date: str | None) -> dict[str, Any]:
    """Return the lines at the foot of the page."""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    command = run.settings.get("command")
    foot = {
        "command": shlex.join(command) if command else "",
        "date": now if date is None else date,
    }
    if count > MOST_RUNS:
        foot["left_out"] = {
            "en": f"{count} runs; the page shows the first {MOST_RUNS}.",
            "zh": f"共 {count} 个模型,本页显示前 {MOST_RUNS} 个。",
        }
    return foot
