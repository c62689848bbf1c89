"""Ctrl-C and SIGTERM: the training loop finishes its dispatch, saves, and stops."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """A context manager that catches the first SIGINT or SIGTERM; a second signal acts as usual.

    `received` is the number of the caught signal, or 0.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers; in another thread the signals act as usual.
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
            # None stands for a handler outside of Python, such as JAX's distributed runtime's.
            default = signal.SIG_DFL
            self._before = {number: handler or default for number, handler in before.items()}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal, and give the next signal to the earlier handlers."""
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error: object) -> None:
        self._restore()
