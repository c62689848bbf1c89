"""The views of a page: what each collects from the runs, and the script that draws it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxlm.inspection.pages import (
    view_about,
    view_backoff,
    view_counts,
    view_exploding,
    view_gates,
    view_gradients,
    view_learning,
    view_next,
    view_senses,
    view_surprise,
    view_unrolled,
    view_vectors,
)
from jaxlm.inspection.traces import Trace, trace
from jaxlm.runs.run import Run

Collected = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """The options of a page: what the views are asked for.

    Attributes:
      start: "fresh", "warm" or None, as in `next_words`.
      lang: "en" or "zh", the language of the page at first.
      labels: a short name for each run.
      count: number of next words.
      word: the word whose senses are shown; None for a default.
    """

    start: str | None = None
    lang: str = "en"
    labels: tuple[str, ...] = ()
    count: int = 5
    word: str | None = None
    _traces: dict[Any, Trace] = field(default_factory=dict, repr=False, compare=False)

    def trace(self, run: Run, text: str, counts: bool = False) -> Trace:
        """Return the trace of a text, computed once for all views; see `jaxlm.inspection.trace`."""
        key = id(run), text, counts
        if key not in self._traces:
            self._traces[key] = trace(run, text, start=self.start, count=self.count, counts=counts)
        return self._traces[key]


Collect = Callable[[Sequence[Run], str, Options], Collected]


@dataclass(frozen=True)
class View:
    """A section of the page.

    collect: (runs, text, options) -> a JSON-able dict, or {"missing": {"en": ..., "zh": ...}},
    which says why there is nothing to show and what to do. script: a file in assets, which calls
    jaxlm.view(name, ...). The file text_<name>.json in assets has the view's texts.
    """

    collect: Collect
    script: str


VIEWS: dict[str, View] = {
    "surprise": View(view_surprise.collect, "view_surprise.js"),
    "next": View(view_next.collect, "view_next.js"),
    "gates": View(view_gates.collect, "view_gates.js"),
    "gradients": View(view_gradients.collect, "view_gradients.js"),
    "exploding": View(view_exploding.collect, "view_exploding.js"),
    "unrolled": View(view_unrolled.collect, "view_unrolled.js"),
    "vectors": View(view_vectors.collect, "view_vectors.js"),
    "senses": View(view_senses.collect, "view_senses.js"),
    "counts": View(view_counts.collect, "view_counts.js"),
    "backoff": View(view_backoff.collect, "view_backoff.js"),
    "learning": View(view_learning.collect, "view_learning.js"),
    "about": View(view_about.collect, "view_about.js"),
}
"""The views by name, in the order of the page."""
