"""The server: a socket, uvicorn, and the signals that end it."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from jaxlm.errors import SettingError, reason

BACKLOG = 1024
"""Connections that the system keeps until the server accepts them."""
INTERRUPTED = 130
TICK = 0.2
"""Seconds between two looks at whether SIGINT came."""


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to `host` and `port`.

    Clients that connect before the server accepts them wait.

    Args:
      host: name or address of this machine.
      port: the port; 0 for any free port.
    Raises:
      SettingError: if the address does not exist, or the port cannot be used.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        why = f"is no address of this machine: {reason(error)}"
        raise SettingError("host", host, why) from None
    opened = socket.socket(family, kind)
    try:
        if os.name == "posix":
            # Otherwise the port of a server that ended stays taken for a minute.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise _refused(host, port, error) from None
    return opened


def _refused(host: str, port: int, error: OSError) -> SettingError:
    """Return the error for an address that cannot be bound."""
    if isinstance(error, PermissionError):
        return SettingError("port", port, "may not be opened by this user: choose 1024 or more")
    text = reason(error)
    if "assign" in text:
        return SettingError("host", host, f"is no address of this machine: {text}")
    why = f"cannot be opened: {text}; choose another, or 0 for any free port"
    return SettingError("port", port, why)


def url_of(opened: socket.socket) -> str:
    """Return the URL of a bound socket.

    Example:
      >>> with open_socket("127.0.0.1", 0) as opened:
      ...     url_of(opened).rsplit(":", 1)[0]
      'http://127.0.0.1'
    """
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """A server that ends at once on SIGINT, and answers what it has on SIGTERM.

    Args:
      config: uvicorn's settings.
      ready: called when the server accepts requests.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self.code = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn ends with `Server.wait_closed`, which waits for every open connection from Python
        # 3.12.1 on, also after SIGINT. So its shutdown runs as a task, which SIGINT cancels.
        ending = asyncio.create_task(super().shutdown(sockets))
        while not ending.done():
            # Long enough for uvicorn to close the sockets and the idle connections.
            await asyncio.wait({ending}, timeout=TICK)
            if self.force_exit:
                ending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ending

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def end(number: int, frame: FrameType | None) -> None:
            self.should_exit = True
            if number == signal.SIGINT:
                self.code, self.force_exit = INTERRUPTED, True

        numbers = signal.SIGINT, signal.SIGTERM
        before = {number: signal.signal(number, end) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    application: Any, opened: socket.socket, *, ready: Callable[[], None], drain: float
) -> int:
    """Serve an application until a signal comes, and return the exit code.

    Args:
      application: the ASGI application.
      opened: the socket.
      ready: called when the server accepts requests.
      drain: seconds that SIGTERM leaves to the requests that are not answered yet.
    Returns:
      130 after SIGINT (Ctrl-C), which drops what is not answered; 0 after SIGTERM.
    """
    config = uvicorn.Config(
        application,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(drain)),
    )
    server = Server(config, ready)
    asyncio.run(server.serve([opened]))
    return server.code
