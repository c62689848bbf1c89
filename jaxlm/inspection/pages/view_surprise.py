"""The view "surprise": the text, coloured by the bits of each token."""

from collections.abc import Sequence
from typing import Any

from jaxlm.runs.run import Run


def collect(runs: Sequence[Run], text: str, options: Any) -> dict[str, Any]:
    """Return the text."""
    return {"text": text}
