"""The view "next": the most probable next words of every run side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.inspection.pages.html import packed
from jaxlm.runs.run import Run

if TYPE_CHECKING:
    from jaxlm.inspection.pages.views import Options


def collect(runs: Sequence[Run], text: str, options: "Options") -> dict[str, Any]:
    """Return the next words before each token and after the last, for each run."""
    return {"runs": [_words(run, text, options) for run in runs]}


def _words(run: Run, text: str, options: "Options") -> dict[str, Any]:
    trace = options.trace(run, text)
    listed = sorted({index for index in trace.next_ids.ravel().tolist() if index >= 0})
    place = {index: number for number, index in enumerate(listed)}
    numbers = [[place.get(index, -1) for index in row] for row in trace.next_ids.tolist()]
    spans = trace.spans.tolist()
    return {
        "came": {
            index: token
            for index, (token, (first, last)) in enumerate(zip(trace.tokens, spans, strict=True))
            if token != text[first:last]
        },
        "words": [run.tokenizer.token_text(index) for index in listed],
        "numbers": packed(np.array(numbers), "int32"),
        "probabilities": packed(trace.next_probabilities),
        "order": None if trace.ngram is None else packed(trace.ngram.order, "int32"),
        "longest": getattr(run.model, "order", None),
    }
