"""The view "backoff": how an n-gram answers at each token of the text, order by order."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxlm.inspection.backing_off import CONTINUATION, LINE_START, Rung, _rungs, recount
from jaxlm.inspection.pages.choosing import Both, both, each, or_missing
from jaxlm.inspection.pages.html import packed
from jaxlm.inspection.traces import Reading, read
from jaxlm.runs.run import Run

NOWHERE = -1
"""The place of a word that a context does not have, and the count that a run does not know."""


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the ladder of every token, for each n-gram."""

    def of_run(run: Run) -> dict[str, Any]:
        reading = read(run, text, options.start)
        return table_of(run, [rungs for _, rungs in ladders(run, reading)])

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


def ladders(run: Run, reading: Reading) -> Iterator[tuple[int, tuple[Rung, ...]]]:
    """Yield each token's place in the text, and the rungs of its probability, longest order first.

    The rungs are those of `jaxlm.inspection.backoff`, with the context that the run reads there.
    """
    model: Any = run.model
    known, _ = recount(run)
    before = np.array(reading.start.ids, np.int64)
    for segment in reading.segments:
        carry = model.initial_carry(1) if reading.start.carry is None else reading.start.carry
        read_S = np.concatenate([before, reading.ids[segment]])
        contexts, _ = model.contexts(run.params, read_S[None], carry)
        is_start = np.zeros(len(read_S), bool) if model.stream else read_S == model.start_id
        seen_S = np.concatenate([carry[0], np.where(is_start, model.vocab_size, read_S)])
        for place in range(segment.start, segment.stop):
            # `model.contexts` has the context before its first input in column 0.
            column = len(before) + place - segment.start
            seen = seen_S[column : column + model.order - 1]
            ids = [int(ids_1P[0, column]) for ids_1P in contexts]
            yield place, _rungs(run, seen, ids, int(reading.ids[place]), known)


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
