"""The views of a page: what each collects from the runs, and the script that draws it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxlm.inspection.pages import view_surprise
from jaxlm.runs.run import Run

Collected = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What a view may be asked for, beside the runs and the text.

    start: "fresh", "warm" or None, as in `next_words`. lang: "en" or "zh", the language of the page
    at first. labels: a short name for each run. count: number of next words. word: the word whose
    senses are shown; None for a default. extra: options of single views, by name.
    """

    start: str | None = None
    lang: str = "en"
    labels: tuple[str, ...] = ()
    count: int = 5
    word: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


Collect = Callable[[Sequence[Run], str, Options], Collected]


@dataclass(frozen=True)
class View:
    """A section of the page.

    collect: (runs, text, options) -> a JSON-able dict, or {"missing": {"en": ..., "zh": ...}},
    which says why there is nothing to show and what to do. script: a file in assets, which calls
    jaxlm.view(name, ...). text_<name>.json beside it has the view's texts.
    """

    collect: Collect
    script: str


VIEWS: dict[str, View] = {
    "surprise": View(view_surprise.collect, "view_surprise.js"),
}
"""The views by name, in the order of the page."""
