"""The kind of error a person can mend: one line that says what was wrong and what to do."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake in what was asked for. Commands print its one line and exit with code 2."""


def nearest(name: str, choices: object, count: int = 3) -> list[str]:
    """The choices spelled most like `name`, best first; fewer than `count` when few come close."""
    return difflib.get_close_matches(name, [str(choice) for choice in choices], count, 0.5)  # type: ignore[attr-defined]


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`, or a UserError that lists the choices and the nearest one."""
    if name in table:
        return table[name]
    close = nearest(name, table, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(f"unknown {what} {name!r}{hint}: choose one of {', '.join(table)}")
