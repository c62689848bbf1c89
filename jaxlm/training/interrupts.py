"""Ctrl-C and SIGTERM as a wish to stop, which the training loop grants after the step in hand."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """A context manager; `received` is the first signal's number, else 0. A second signal acts as
    it always would.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers; elsewhere the program that owns it decides.
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
            # None: a handler that is not Python's, such as that of JAX's distributed runtime.
            default = signal.SIG_DFL
            self._before = {number: handler or default for number, handler in before.items()}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error: object) -> None:
        self._restore()
