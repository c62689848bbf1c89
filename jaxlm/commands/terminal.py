"""Output that any terminal, pipe or file can take, and that may end before the command does."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Output:
    """A text stream that a command prints to; a failed write does not raise OSError.

    Characters that the encoding of the stream lacks are printed as "?". If the reader ends, the
    terminal goes away or the disk is full, `error` has the OSError, and later output is dropped.
    For a command that has nothing to save, a failed write raises OutputClosedError.

    Args:
      stream: the stream, such as sys.stdout.
      goes_on: whether the command goes on without output.
    """

    def __init__(self, stream: Any, goes_on: bool) -> None:
        self._stream, self._goes_on = stream, goes_on
        self.error: OSError | None = None
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, and return its length."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass on what was written."""
        self._try(self._stream.flush)

    def _try(self, act: Any) -> None:
        if self.error is None:
            try:
                act()
            except OSError as error:
                self.error = error
                self._drop()
        if self.error is not None and not self._goes_on:
            raise OutputClosedError(self.error)

    def _drop(self) -> None:
        """Send what the stream still holds, and all that follows, to nowhere."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class OutputClosedError(Exception):
    """The output of a command cannot be written, and the command has nothing else to do."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def any_terminal(goes_on: bool) -> Iterator[Output]:
    """Return a context in which printing never fails; its value is the standard output.

    Args:
      goes_on: whether the command goes on if its output cannot be written, or if its terminal goes
        away. If False, printing raises OutputClosedError.
    """
    before = sys.stdout, sys.stderr
    output = Output(sys.stdout, goes_on)
    sys.stdout, sys.stderr = output, Output(sys.stderr, True)
    hangup = getattr(signal, "SIGHUP", None)
    ignores = goes_on and hangup and threading.current_thread() is threading.main_thread()
    handler = signal.signal(hangup, signal.SIG_IGN) if ignores and hangup else None
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = before
        if ignores and hangup:
            signal.signal(hangup, handler or signal.SIG_DFL)


def exit_code(code: int, error: OSError | None) -> int:
    """Return the exit code of a command whose output may have failed.

    A reader that ended (head, less) is no mistake. Output that was lost for another reason, such as
    a full disk, is: the code is 1 if the command itself succeeded.
    """
    lost = error is not None and error.errno != errno.EPIPE
    return 1 if lost and code == 0 else code
