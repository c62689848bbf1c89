"""Make the page of one run or several: collect the views, and put them into one file."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import choose
from jaxlm.inspection.pages.html import asset, document, packed
from jaxlm.inspection.pages.views import VIEWS, Options
from jaxlm.runs.run import Run

CHARACTERS = 2000
"""The page shows the first characters of a longer text."""
LANGUAGES = ("en", "zh")
SHARED = ("page", "charts")
"""Names of the scripts, styles and texts that all views share."""


def labels_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return a short name for each run, all different.

    The name is that of the run's folder, or the path of the folder if two runs have the same name.
    """
    names = [Path(run.name).name for run in runs]
    labels = [
        name if names.count(name) == 1 else run.name for name, run in zip(names, runs, strict=True)
    ]
    return tuple(
        label if labels.count(label) == 1 else f"{label} ({number})"
        for number, label in enumerate(labels, start=1)
    )


def shown(text: str) -> str:
    """Return the part of a text that the page shows."""
    return text[:CHARACTERS]


def page(
    runs: Sequence[Run],
    text: str,
    options: Options | None = None,
    *,
    title: str | Mapping[str, str] = "",
    notes: Sequence[Mapping[str, str]] = (),
    foot: Mapping[str, str] | None = None,
    views: Sequence[str] | None = None,
    keep_missing: bool = True,
) -> str:
    """Return the page of some runs as one HTML file.

    Args:
      runs: the runs.
      text: the text that they read; the page shows its first CHARACTERS characters.
      options: see Options.
      title: title of the page, or one in each language; empty for the names of the runs.
      notes: what the reader must know of the text, in each language, such as where it is from.
      foot: entries of the foot by name: "command", "date".
      views: names of the views; None for all.
      keep_missing: whether a view that has nothing to show says why; otherwise it is left out.
    Raises:
      UserError: for another language, and if a run cannot read the text; see
        `jaxlm.inspection.trace`.
    """
    options = options or Options()
    choose(dict.fromkeys(LANGUAGES), options.lang, "lang")
    labels = options.labels or labels_of(runs)
    options = replace(options, labels=labels)
    names = list(VIEWS if views is None else views)
    part = shown(text)
    if len(part) < len(text):
        notes = (*notes, cut_note(len(text)))
    found = collected(runs, part, options, names)
    if not keep_missing:
        names = [name for name in names if "missing" not in found[name]]
    texts: dict[str, Any] = {}
    for name in (*SHARED, *names):
        texts |= json.loads(asset(f"text_{name}.json"))
    titles = title or {"en": f"Inside {', '.join(labels)}", "zh": f"{'、'.join(labels)} 的内部"}
    data = {
        "lang": options.lang,
        "title": titles,
        "text": part,
        "runs": [
            _frame(run, part, label, options) for run, label in zip(runs, labels, strict=True)
        ],
        "notes": list(notes),
        "first": _first(runs[0], part, options),
        "foot": dict(foot or {}),
        "texts": texts,
        "order": names,
        "views": {name: found[name] for name in names},
    }
    shared = [asset(f"{name}.js") for name in SHARED]
    scripts = [*shared, *(asset(VIEWS[name].script) for name in names), "jaxlm.start();"]
    styles = [asset(f"{name}.css") for name in SHARED]
    first_title = titles if isinstance(titles, str) else titles[options.lang]
    return document(first_title, options.lang, styles, scripts, data)


def collected(
    runs: Sequence[Run], text: str, options: Options, names: Sequence[str]
) -> dict[str, Any]:
    """Return what each view collects, by name.

    Two views are collected at a time: most of the time JAX compiles, which needs one core for most
    programs.

    Args:
      runs: the runs.
      text: the text that they read.
      options: see Options.
      names: names of the views.
    """
    for run in runs:
        # Every view reads the trace, and none should wait for another to compute it.
        options.trace(run, text)
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = pool.map(lambda name: VIEWS[name].collect(runs, text, options), names)
        return dict(zip(names, found, strict=True))


def cut_note(length: int) -> dict[str, str]:
    """Return the note that the page shows only the beginning of a text."""
    return {
        "en": f"The text has {length:,} characters. This page shows the first {CHARACTERS:,}.",
        "zh": f"全文有 {length:,} 个字符，本页显示前 {CHARACTERS:,} 个。",
    }


def _frame(run: Run, text: str, label: str, options: Options) -> dict[str, Any]:
    """Return what every view may ask of a run: its name, and its tokens in the text."""
    trace = options.trace(run, text)
    names, end = {}, 0
    for index, (token, (first, last)) in enumerate(
        zip(trace.tokens, trace.spans.tolist(), strict=True)
    ):
        # A token of bytes can be a part of a character, which the text cannot show.
        if first < end:
            names[index] = token
        end = last
    return {
        "label": label,
        "name": run.name,
        "model": type(run.model).__name__,
        "unit": run.tokenizer.unit,
        "tokenizer": run.tokenizer.name,
        "spans": packed(trace.spans, "int32"),
        "names": names,
        "unknown": trace.unknown.nonzero()[0].tolist(),
        "skipped": trace.skipped.tolist(),
        "unk": run.vocabulary.unk,
        "start": trace.start.name,
    }


def _first(run: Run, text: str, options: Options) -> int:
    """Return the token that is selected at first: the most surprising one near the beginning.

    In a text of a few words it is the place after the last word; if the run learnt to predict the
    third word of each line alone, as in the lecture, it is the last of three words.
    """
    surprisal = options.trace(run, text).surprisal
    if len(surprisal) < 6:
        return len(surprisal) - (run.protocol.last_only and len(surprisal) > 2)
    return 1 + int(np.argmax(np.nan_to_num(surprisal[1:120], nan=-1.0)))
