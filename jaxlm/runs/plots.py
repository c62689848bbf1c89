"""The learning curve of runs, and the live curve of a notebook: drawn with matplotlib."""

import io
import itertools
import math
import time
from typing import Any

from jaxlm.errors import UserError

Records = list[dict[str, Any]]
"""Records of the log, such as {"step": 200, "split": "train", "ppl": 9.5}."""
# Below this perplexity a curve shows the loss, whose digits can be read.
SMALL_PERPLEXITY = 1.1


def _curve(records: Records, title: str) -> Any:
    """Return a figure of matplotlib with the learning curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    draw_curves(figure.add_subplot(), records)
    figure.axes[0].set_title(title)
    return figure


def draw_curves(axes: Any, records: Records) -> None:
    """Draw a curve for each run and split that has records.

    If every perplexity is almost 1, as for a text of three sentences, the curves show the loss.

    Args:
      axes: axes of matplotlib.
      records: records of the log, with the entry `run` if they are of several runs.
    """
    # A damaged metrics.jsonl may have anything in the place of a number.
    known = [record for record in records if isinstance(record.get("ppl"), int | float)]
    shows_loss = bool(known) and max(record["ppl"] for record in known) < SMALL_PERPLEXITY
    value = _loss if shows_loss else _perplexity
    names = list(dict.fromkeys(record.get("run", "") for record in records))
    for name, (split, marker) in itertools.product(names, (("train", ""), ("valid", "o"))):
        points = [
            (record["step"], value(record))
            for record in known
            if (record.get("run", ""), record.get("split")) == (name, split)
        ]
        if points:
            label = f"{name} {split}".strip()
            axes.plot(*zip(*points, strict=True), marker=marker, label=label)
    label = "loss (nats per token)" if shows_loss else "perplexity"
    axes.set(xlabel="step", ylabel=label, yscale="log")
    if axes.lines:
        axes.legend()
        if not shows_loss:
            _plain_numbers(axes)
    axes.grid(True, which="both", alpha=0.3)


def _perplexity(record: dict[str, Any]) -> float:
    return float(record["ppl"])


def _loss(record: dict[str, Any]) -> float:
    """Return the loss of a train record or of a validation, in nats per token."""
    loss, nll, tokens = (record.get(name) for name in ("loss", "nll", "tokens"))
    if isinstance(loss, int | float):
        return loss
    if isinstance(nll, int | float) and isinstance(tokens, int) and tokens > 0:
        return nll / tokens
    return math.log(max(record["ppl"], 1))


def _plain_numbers(axes: Any) -> None:
    """Label the vertical axis with numbers such as 20, 50 and 100, not with powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_ylim()
    narrow = high < 10 * low
    locator = MaxNLocator(6) if narrow else LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,))
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


class LiveCurve:
    """A callback of `fit` that draws training and validation perplexity in a notebook.

        jaxlm.fit(model, text, callbacks=[jaxlm.LiveCurve()])

    The curve appears where LiveCurve is called, and is drawn again as records come.

    Args:
      seconds: the least time between two drawings.
      title: the title of the figure.
    Raises:
      UserError: if IPython or matplotlib is not installed.
    """

    def __init__(self, seconds: float = 2.0, title: str = "") -> None:
        try:
            import matplotlib  # noqa: F401
            from IPython.display import display
        except ImportError as error:
            raise UserError(
                f"LiveCurve draws in a notebook, with matplotlib: {error}; pip install ipython "
                f"matplotlib, or leave LiveCurve out of `callbacks`"
            ) from None
        self.records: Records = []
        self.seconds, self.title = seconds, title
        # The clock of time.monotonic starts at 0 with the machine on some systems.
        self._drawn, self._drawn_records = -math.inf, 0
        self._place = display(self._picture(), display_id=True)

    def __call__(self, record: dict[str, Any]) -> None:
        """Add a record of the log; draw if the last drawing is `seconds` old."""
        self.records.append(record)
        if time.monotonic() - self._drawn >= self.seconds:
            self.draw()

    def draw(self) -> None:
        """Draw all records so far."""
        self._drawn, self._drawn_records = time.monotonic(), len(self.records)
        if self._place is not None:
            self._place.update(self._picture())

    def finish(self) -> None:
        """Draw the records that came after the last drawing; `fit` calls this at its end."""
        if self._drawn_records < len(self.records):
            self.draw()

    def _picture(self) -> Any:
        """Return the figure as an image that IPython can display."""
        from IPython.display import Image

        content = io.BytesIO()
        _curve(self.records, self.title).savefig(content, dpi=90, format="png")
        return Image(data=content.getvalue())
