"""Figures; the only module that knows matplotlib, and notebooks."""

import io
import time
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError

Records = list[dict[str, Any]]


def loss_curve(records: Records, path: Path) -> bool:
    """Draws training and validation perplexity by step into `path`; False if matplotlib (extra
    `plots`) is missing.
    """
    try:
        figure = _curve(records, path.parent.name)
    except ImportError:
        return False
    figure.savefig(path, dpi=120)
    return True


def _curve(records: Records, title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for split, marker in (("train", ""), ("valid", "o")):
        points = [
            (record["step"], record["ppl"])
            for record in records
            if record["split"] == split and "ppl" in record
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label=split)
    axes.set(xlabel="step", ylabel="perplexity", yscale="log", title=title)
    if axes.lines:
        axes.legend()
    axes.grid(True, which="both", alpha=0.3)
    return figure


class LiveCurve:
    """A notebook's curve of training and validation perplexity that is drawn anew as they come.

        jaxlm.fit(model, text, watch=jaxlm.LiveCurve())

    seconds: between two drawings, at least. Raises UserError where there is no notebook to show it,
    or no matplotlib.
    """

    def __init__(self, seconds: float = 2.0, title: str = "") -> None:
        try:
            import matplotlib  # noqa: F401
            from IPython.display import display
        except ImportError as error:
            raise UserError(
                f"LiveCurve draws in a notebook, with matplotlib: {error}; leave watch out, or "
                f"pip install ipython matplotlib"
            ) from None
        self.records: Records = []
        self.seconds, self.title = seconds, title
        self._drawn = 0.0
        self._place = display(self._picture(), display_id=True)

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes a record of the log: its step, split, and perplexity."""
        self.records.append(record)
        if time.monotonic() - self._drawn >= self.seconds:
            self.draw()

    def draw(self) -> None:
        """Draws all there is, now."""
        self._drawn = time.monotonic()
        if self._place is not None:
            self._place.update(self._picture())

    def _picture(self) -> Any:
        from IPython.display import Image

        content = io.BytesIO()
        _curve(self.records, self.title).savefig(content, dpi=90, format="png")
        return Image(data=content.getvalue())
