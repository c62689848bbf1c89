"""Ctrl-C while a command still imports its libraries: end without a traceback.

This module imports only the standard library, because it comes before all other imports.
"""

import sys
from types import TracebackType
from typing import Any


def end_quietly() -> None:
    """Print no traceback for a KeyboardInterrupt that nothing catches, in this process.

    Python then ends with the exit code 130, as for every program that SIGINT ends.
    """
    if not isinstance(sys.excepthook, _Hook):
        sys.excepthook = _Hook(sys.excepthook)


class _Hook:
    """An excepthook that ignores KeyboardInterrupt, and passes other exceptions on."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            self._before(kind, error, trace)
