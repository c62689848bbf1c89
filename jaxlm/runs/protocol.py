"""The protocol of a run: which tokens are scored, and where the carry is reset."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from jaxlm.errors import SettingError, UserError, choose
from jaxlm.ranges import check_settings

FRESH = "fresh"
WARM = "warm"


@dataclass(frozen=True)
class Protocol:
    """The way in which a run is scored; config.json keeps it.

    rows: each line is scored on its own; otherwise the text is one stream.
    last_only: only the last token of each line is predicted (the lecture); needs `rows`.
    start: the state before each line: "fresh", the initial state, or "warm", the state after a
    stretch of the training text, which needs `rows`.

    Raises:
      SettingError: for `last_only` or a warm start without `rows`.

    Example:
      >>> Protocol(rows=True, last_only=True).as_json()
      {'rows': True, 'last_only': True}
    """

    rows: bool = False
    last_only: bool = False
    start: str = FRESH

    def __post_init__(self) -> None:
        check_settings(self)
        if self.last_only and not self.rows:
            raise SettingError("last_only", True, "needs `rows`, as a stream has no last token")
        choose(dict.fromkeys((FRESH, WARM)), self.start, "start")
        if self.start != FRESH and not self.rows:
            raise SettingError("start", self.start, "needs `rows`: a stream starts once")

    @classmethod
    def from_json(cls, saved: Any) -> "Protocol":
        """Return the protocol that `as_json` gave.

        Raises:
          UserError: for another content, such as a setting of a later version of jaxlm.
        """
        known = [item.name for item in fields(cls)]
        names = list(saved) if isinstance(saved, dict) else [str(saved)]
        if unknown := [name for name in names if name not in known]:
            raise UserError(
                f"its protocol has {', '.join(unknown)}, which this version of jaxlm does not "
                f"know; it knows {', '.join(known)}"
            )
        return cls(**saved)

    def as_json(self) -> dict[str, Any]:
        """Return the protocol as config.json keeps it."""
        saved = asdict(self)
        if self.start == FRESH:
            # Earlier versions of jaxlm, which do not know the entry, read this run too.
            del saved["start"]
        return saved
