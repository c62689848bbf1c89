"""Errors that a person can mend: one line that says what was wrong and what to do.

A message names settings by their Python names in backticks, such as `hidden_size`. The library
shows it as it is; a command shows the flag, `--hidden-size` (`jaxlm.commands.cli.with_flags`).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake in what was asked for. Commands print its one line and exit with code 2."""


class SettingError(UserError):
    """A setting has a value that it cannot have.

    Example:
      >>> raise SettingError("hidden_size", 0, "must be at least 1")
      Traceback (most recent call last):
      jaxlm.errors.SettingError: `hidden_size` 0: must be at least 1

    Args:
      field: Python name of the setting.
      value: the value that was given.
      why: what is wrong, and which values are possible.
    """

    def __init__(self, field: str, value: Any, why: str) -> None:
        super().__init__(f"`{field}` {value}: {why}")
        self.field, self.value, self.why = field, value, why


def reason(error: Exception) -> str:
    """Return why an operation of the system failed, never empty.

    An OSError that Python or a library raised with a message alone has no `strerror`.

    Example:
      >>> reason(OSError(28, "No space left on device")), reason(OSError("10 of 20 written"))
      ('No space left on device', '10 of 20 written')
    """
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def nearest(name: str, choices: Iterable[object], count: int = 3) -> list[str]:
    """Return the choices spelled most like `name`, best first; fewer than `count` if few are."""
    return difflib.get_close_matches(name, [str(choice) for choice in choices], count, 0.5)


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`; `what` says what kind of thing it is.

    Raises:
      UserError: for an unknown name. The message lists the choices and the nearest one.
    """
    if name in table:
        return table[name]
    close = nearest(name, table, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(f"unknown {what} {name!r}{hint}: choose one of {', '.join(table)}")


def check_at_least(field: str, value: Any, minimum: float) -> None:
    """Raise SettingError unless `value` is at least `minimum`."""
    if not value >= minimum:
        raise SettingError(field, value, f"must be at least {minimum}")
