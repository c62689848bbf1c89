"""The view "surprise": the text, coloured by the bits of each token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.inspection.pages.html import packed
from jaxlm.runs.run import Run

if TYPE_CHECKING:
    from jaxlm.inspection.pages.views import Options
    from jaxlm.inspection.traces import Trace

LETTERS, WORDS = (2.0, 6.0, 10.0), (3.0, 10.0, 16.0)
"""Bits for small and for large vocabularies: below the first a token was expected, above the second
it is surprising, and from the third on the colour is the darkest."""
LARGE = 512
"""Tokens of a large vocabulary, at least."""


def collect(runs: Sequence[Run], text: str, options: "Options") -> dict[str, Any]:
    """Return surprisal, entropy and rank of each token for each run, and the sums."""
    return {"runs": [_numbers(run, text, options) for run in runs]}


def _numbers(run: Run, text: str, options: "Options") -> dict[str, Any]:
    trace = options.trace(run, text)
    surprisal = taught_surprisal(run, trace)
    known = np.isfinite(surprisal)
    bits, count = float(surprisal[known].sum()), int(known.sum())
    characters = _characters(known, trace.spans, trace.skipped)
    return {
        "surprisal": packed(surprisal),
        "entropy": packed(trace.entropy),
        "rank": packed(trace.rank, "int32"),
        "limits": limits_of(run),
        "bits": bits,
        "predicted": count,
        "impossible": int(np.isinf(surprisal).sum()),
        "bits_per_token": bits / count if count else None,
        "bits_per_character": bits / characters if characters else None,
        "unknown": int(trace.unknown.sum()) + len(trace.skipped),
        "vocabulary": len(run.vocabulary),
        "last_only": _is_last_only(run),
    }


def taught_surprisal(run: Run, trace: "Trace") -> np.ndarray:
    """Return the surprisal of each token [T]; NaN where the run did not learn to predict it.

    A run that learnt only the last token of each line predicts no other token.
    """
    if not _is_last_only(run):
        return trace.surprisal
    start_id = run.vocabulary.start_id
    # The token that ends a line, if there is one, is the last of its row.
    last = _ends_line(trace.text, trace.spans) if start_id is None else trace.ids == start_id
    return np.where(last, trace.surprisal, np.nan)


def _is_last_only(run: Run) -> bool:
    """Return whether the run learnt only the last word of each line."""
    return run.protocol.last_only and run.model.trained_by == "gradient"


def limits_of(run: Run) -> tuple[float, ...]:
    """Return the bits at which the colour of a token changes its meaning; see LETTERS and WORDS."""
    return WORDS if len(run.vocabulary) >= LARGE else LETTERS


def _ends_line(text: str, spans: np.ndarray) -> np.ndarray:
    """Return whether each token is the last word of its line, bool [T]."""
    lines = text.split("\n")
    # The end of each line, and the end of its last word.
    ends = np.cumsum([len(line) + 1 for line in lines]) - 1
    words = ends - [len(line) - len(line.rstrip()) for line in lines]
    line_T = np.minimum(np.searchsorted(ends, spans[:, 1]), len(lines) - 1)
    return spans[:, 1] >= words[line_T]


def _characters(known: np.ndarray, spans: np.ndarray, skipped: np.ndarray) -> int:
    """Return how many characters the predicted tokens have.

    The blank between two tokens belongs to the second token. Characters that the model did not read
    are not counted.

    Args:
      known: whether a token is predicted, bool [T].
      spans: offsets of each token's first character and of the character after it, [T, 2].
      skipped: offsets of what the model did not read, [N, 2].
    """
    if not len(spans):
        return 0
    is_counted = np.zeros(spans[-1, 1], bool)
    ends = [int(spans[0, 0]), *spans[:-1, 1].tolist()]
    for predicted, begin, (_, end) in zip(known, ends, spans.tolist(), strict=True):
        # A token that is a part of a character may follow a token with the same end.
        is_counted[begin:end] |= predicted
    for begin, end in skipped.tolist():
        is_counted[begin:end] = False
    return int(is_counted.sum())
