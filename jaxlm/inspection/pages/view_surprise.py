"""The view "surprise": the text, coloured by the bits of each token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.inspection.pages.html import packed
from jaxlm.runs.run import Run

if TYPE_CHECKING:
    from jaxlm.inspection.pages.views import Options

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
    last_only = run.protocol.last_only and run.model.trained_by == "gradient"
    surprisal = trace.surprisal
    if last_only:
        surprisal = np.where(_ends_line(text, trace.spans), surprisal, np.nan)
    known = np.isfinite(surprisal)
    bits = float(surprisal[known].sum())
    spans, count = trace.spans[known], int(known.sum())
    characters = int(np.diff(spans).sum()) if last_only else _characters(spans, trace.skipped)
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
        "last_only": last_only,
    }


def limits_of(run: Run) -> tuple[float, ...]:
    """Return the bits at which the colour of a token changes its meaning; see LETTERS and WORDS."""
    return WORDS if len(run.vocabulary) >= LARGE else LETTERS


def _ends_line(text: str, spans: np.ndarray) -> np.ndarray:
    """Return whether each token is the last word of its line, bool [T]."""
    rest = (text[end:].split("\n", 1)[0] for end in spans[:, 1].tolist())
    return np.array([not after.strip() for after in rest], bool)


def _characters(spans: np.ndarray, skipped: np.ndarray) -> int:
    """Return how many characters the tokens and the blanks between them have.

    The blank before a word belongs to the word. Characters that the model did not read are not
    counted.
    """
    if not len(spans):
        return 0
    first, last = spans[0, 0], spans[-1, 1]
    between = skipped[(skipped[:, 0] >= first) & (skipped[:, 1] <= last)]
    return int(last - first - (between[:, 1] - between[:, 0]).sum())
