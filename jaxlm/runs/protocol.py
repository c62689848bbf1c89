"""The protocol of a run: which tokens are scored, and where the carry is reset."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The way in which a run is scored; config.json keeps it.

    rows: each line is scored on its own, from the initial carry; otherwise the text is one stream.
    last_only: only the last token of each line is predicted (the lecture); needs `rows`.

    Example:
      >>> Protocol(rows=True, last_only=True).as_json()
      {'rows': True, 'last_only': True}
    """

    rows: bool = False
    last_only: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the protocol as config.json keeps it."""
        return asdict(self)
