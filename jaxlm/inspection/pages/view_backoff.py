"""The view "backoff": how an n-gram answers at each token of the text, order by order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.inspection.backing_off import CONTINUATION, LINE_START, Rung, ladders, recount
from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.inspection.pages.html import packed
from jaxlm.inspection.pieces import readable
from jaxlm.inspection.traces import Reading, read
from jaxlm.runs.run import Run

NOWHERE = -1
"""The place of a word that a context does not have, and the count that a run does not know."""


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the ladder of every token, for each n-gram."""

    def of_run(run: Run) -> dict[str, Any]:
        return table_of(run, rungs_of(run, read(run, text, options.start)))

    shown, without = each(runs, options.labels, of_run, reason)
    return or_missing(shown, without, line_start=LINE_START)


def reason(run: Run) -> Both | None:
    """Return why a run has no ladder, or None if it has."""
    if run.model.trained_by == "counting":
        return None
    return both(
        "this run is no n-gram, so that it does not back off. Add an n-gram run to see its ladder.",
        "这个模型不是 n-gram，不会回退。请加上一个 n-gram 模型再看。",
    )


def rungs_of(run: Run, reading: Reading) -> list[tuple[Rung, ...]]:
    """Return the rungs of each token's probability, longest order first."""
    found: list[tuple[Rung, ...]] = []
    for segment in reading.segments:
        if segment.start == segment.stop:
            # A line without tokens, such as the one after a last line break.
            continue
        first, last = reading.spans[segment][0][0], reading.spans[segment][-1][1]
        passage = readable(run, reading.text[int(first) : int(last)])
        found += [ladder.rungs for ladder in ladders(run, passage, start=reading.start.name)]
    return found


def table_of(run: Run, ladder_of_token: Sequence[tuple[Rung, ...]]) -> dict[str, Any]:
    """Return the ladders of T tokens as arrays [T, rungs], from the longest order to order 0."""
    model: Any = run.model
    tokens, longest = len(ladder_of_token), model.order
    orders = list(range(longest, -1, -1))
    counts = {
        name: np.full((tokens, len(orders)), NOWHERE, np.int32) for name in ("context", "pair")
    }
    numbers = {
        name: np.full((tokens, len(orders)), np.nan, np.float32)
        for name in ("discount", "probability", "weight", "contribution")
    }
    words: dict[str, int] = {}
    context = np.full((tokens, max(1, longest - 1)), NOWHERE, np.int32)
    for place, rungs in enumerate(ladder_of_token):
        for rung in rungs:
            cell = place, longest - rung.order
            if rung.context_count is not None and rung.pair_count is not None:
                counts["context"][cell] = rung.context_count
                counts["pair"][cell] = rung.pair_count
            if rung.discount is not None:
                numbers["discount"][cell] = rung.discount
            numbers["probability"][cell] = rung.probability
            numbers["weight"][cell] = rung.weight
            numbers["contribution"][cell] = rung.contribution
        longest_context = rungs[0].context
        for back, word in enumerate(reversed(longest_context), start=1):
            context[place, -back] = words.setdefault(word, len(words))
    known, why = recount(run)
    return {
        "order": longest,
        "orders": orders,
        "smoothing": model.smoothing,
        "continuation": known is not None and model.smoothing in CONTINUATION,
        "known": known is not None,
        "note": why,
        "answers": [sum(rung.contribution for rung in rungs) for rungs in ladder_of_token],
        "words": list(words),
        "context": packed(context, "int32"),
        "counts": {name: packed(array, "int32") for name, array in counts.items()},
        "numbers": {name: packed(array, "float32") for name, array in numbers.items()},
    }
