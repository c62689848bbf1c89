"""Make the page of one run or several: collect the views, and put them into one file."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxlm.inspection.pages.html import asset, document
from jaxlm.inspection.pages.views import VIEWS, Options
from jaxlm.runs.run import Run


def labels_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return a short name for each run: its folder's, or with the parent's if two are equal."""
    names = [Path(run.name).name for run in runs]
    long = [Path(run.name) for run in runs]
    return tuple(
        name if names.count(name) == 1 else "/".join(path.parts[-2:])
        for name, path in zip(names, long, strict=True)
    )


def collected(runs: Sequence[Run], text: str, options: Options) -> dict[str, Any]:
    """Return what each view collects, by name."""
    return {name: view.collect(runs, text, options) for name, view in VIEWS.items()}


def page(
    runs: Sequence[Run],
    text: str,
    options: Options | None = None,
    *,
    title: str = "",
    foot: dict[str, Any] | None = None,
) -> str:
    """Return the page as HTML.

    Args:
      runs: the runs.
      text: the text that they read.
      options: see Options.
      title: title of the page; empty for the names of the runs.
      foot: lines at the foot of the page by name: "command", "date".
    """
    options = options or Options()
    if not options.labels:
        options = replace(options, labels=labels_of(runs))
    texts: dict[str, Any] = {}
    for name in ("page", *VIEWS):
        texts |= json.loads(asset(f"text_{name}.json"))
    data = {
        "lang": options.lang,
        "title": title or ", ".join(options.labels),
        "text": text,
        "runs": [
            {"label": label, "name": run.name}
            for label, run in zip(options.labels, runs, strict=True)
        ],
        "foot": foot or {},
        "texts": texts,
        "order": list(VIEWS),
        "views": collected(runs, text, options),
    }
    scripts = [asset("page.js"), *(asset(view.script) for view in VIEWS.values()), "jaxlm.start();"]
    return document(data["title"], options.lang, [asset("page.css")], scripts, data)
