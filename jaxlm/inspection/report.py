"""The page that training ends with: the learning curve, samples, the layers and a first text."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from jaxlm.data.files import write_text
from jaxlm.inspection.pages.building import page
from jaxlm.inspection.pages.texts import default_text
from jaxlm.inspection.pages.view_about import command_of
from jaxlm.inspection.pages.views import Options
from jaxlm.runs.run import Run

REPORT_VIEWS = ("learning", "surprise", "next", "gates", "about")
"""The views of a report, in their order. A view that has nothing to show is left out."""
# A page has eight colours for runs.
MOST_RUNS = 8


def write_report(
    runs: Run | Sequence[Run], path: str | Path, *, lang: str = "en", date: str | None = None
) -> None:
    """Write the page of a trained run, or of several runs of one command, as one HTML file.

    The page shows how the runs learned, what they wrote meanwhile, how they read the first lines of
    the validation text, and their layers. Nobody ever finds the file half written.

    Example:
      >>> import tempfile, jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     jaxlm.inspection.write_report(run, Path(folder) / "report.html")
      ...     [path.name for path in Path(folder).iterdir()]
      ['report.html']

    Args:
      runs: a run, or several runs; of more than eight the first eight are shown, and the page says
        so.
      path: the file.
      lang: language of the page at first, "en" or "zh".
      date: the date at the foot of the page; None for today.
    Raises:
      UserError: for another language, and if the runs keep no text and their corpus is not there.
      OSError: if the file cannot be written.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    shown = several[:MOST_RUNS]
    text, note = default_text(shown[0])
    notes = [note]
    if len(shown) < len(several):
        notes.append(
            {
                "en": f"The command trained {len(several)} runs: this page shows the first "
                f"{MOST_RUNS}.",
                "zh": f"这条命令训练了 {len(several)} 个模型，本页显示前 {MOST_RUNS} 个。",
            }
        )
    foot = {
        "command": command_of(shown[0]),
        "date": str(datetime.datetime.now(datetime.UTC).date()) if date is None else date,
    }
    # Several runs of a command have a folder each in one folder.
    name = shown[0].name if len(several) == 1 else str(Path(shown[0].name).parent)
    title = {"en": f"How {name} learned", "zh": f"{name} 学得怎样"}
    content = page(
        shown,
        text,
        Options(lang=lang),
        title=title,
        notes=notes,
        foot=foot,
        views=REPORT_VIEWS,
        keep_missing=False,
    )
    write_text(Path(path), content)
