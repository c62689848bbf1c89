"""The outermost layer of the application: what no request passes, and what no answer shows."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from jaxlm.data.json_files import parse_json
from jaxlm.serving.limits import TOO_LARGE, Limits, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger("jaxlm.serving")
RETRY_AFTER = 1
"""Seconds after which a client may try again when the service is full."""
# A client that sends a body that is too large gets its answer only after it has sent it. So much
# more is read and dropped.
DROPPED = 64 << 20
FAILED = "the server failed: its log says why"
JSON_TYPE = "application/json"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Wraps an ASGI application; every refusal and every failure becomes one line of JSON.

    - HEAD is answered as GET is, without the body.
    - The body is read whole, up to a limit, and must be JSON in UTF-8.
    - More requests than `limits.max_requests` at one time get 503, with Retry-After.
    - A request that is not answered in time gets 504.
    - If `hosts` is given, the header Host must be one of them. This stops DNS rebinding, by which
      a page of another site could ask a service on loopback.
    - A request that is not answered when the server ends gets 503.
    - An error of the application becomes 500, and is logged once.

    Args:
      application: the application.
      limits: the limits of the service.
      hosts: the hosts that a request may name; None for any.
    """

    def __init__(
        self, application: Application, limits: Limits, hosts: Collection[str] | None = None
    ) -> None:
        self._application, self._limits, self._hosts = application, limits, hosts
        self.waiting = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI defines it."""
        if scope["type"] != "http":
            # Neither a web socket nor the start of the server needs an answer.
            return
        answer = _Answer(send)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._guarded(scope, receive, answer)
        except Refusal as error:
            await answer.problem(error.status, str(error))
        except TimeoutError:
            await answer.problem(
                504,
                f"there is no answer after {self._limits.timeout:g} s: ask for less, or later",
                retry=True,
            )
        except asyncio.CancelledError:
            await answer.problem(503, "the server ends: ask again when it is back", retry=True)
            raise
        except ConnectionError:
            # The client is gone.
            return
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"])
            await answer.problem(500, FAILED)
        finally:
            self.waiting -= 1

    async def _guarded(self, scope: Message, receive: Receive, answer: "_Answer") -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self._check_host(headers.get("host", ""))
        if scope["method"] == "HEAD":
            # The server keeps the headers of the answer, and drops its body.
            scope = {**scope, "method": "GET"}
        if scope["method"] != "POST":
            await self._application(scope, receive, answer.send)
            return
        if self.waiting > self._limits.max_requests:
            await answer.problem(
                503,
                f"the server is busy with {self._limits.max_requests:,} requests: try again in "
                f"{RETRY_AFTER} s",
                retry=True,
            )
            return
        body = await self._body(headers, receive)
        _check_json(headers, body)
        sent = False

        async def receive_body() -> Message:
            nonlocal sent
            if sent:
                # Only the end of the connection is left.
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._application(scope, receive_body, answer.send)

    def _check_host(self, host: str) -> None:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self._hosts is not None and name.strip("[]").lower() not in self._hosts:
            raise Refusal(
                421,
                f"the header Host is {host[:60]!r}, and this server answers for "
                f"{', '.join(sorted(self._hosts))} alone: use one of these in the URL",
            )

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        """Return the body of a request.

        Raises:
          Refusal: for a body that is too large.
          ConnectionError: if the client goes before it has sent all.
        """
        most = self._limits.max_body
        parts, size, more = [], 0, True
        while more and size <= most + DROPPED:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client is gone")
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size <= most:
                parts.append(part)
        if size > most:
            shown = f"{size:,} bytes" if not more else "too many bytes"
            raise Refusal(
                TOO_LARGE, f"the body has {shown}, and this server takes {most:,}: send less"
            )
        return b"".join(parts)


def _check_json(headers: dict[str, str], body: bytes) -> None:
    """Raise Refusal unless the body is JSON, and the header Content-Type says so.

    A page of another site may send a body of another type without asking first.
    """
    kind = headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != JSON_TYPE:
        raise Refusal(
            415,
            f"the header Content-Type is {kind[:60]!r}: send JSON, and Content-Type: {JSON_TYPE}",
        )
    try:
        parse_json(body.decode("utf-8"), "the body")
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 at byte {error.start}: send UTF-8") from None
    except ValueError as error:
        why = " ".join(str(error).split())
        if "int_max_str_digits" in why:
            why = "the body has a number of thousands of digits"
        if not why.startswith("the body"):
            why = f"the body is no JSON: {why}"
        raise Refusal(400, f'{why}; send an object such as {{"text": "the cat"}}') from None


class _Answer:
    """Sends the answer of the application, or a problem if nothing was sent yet."""

    def __init__(self, send: Send) -> None:
        self._send, self._started = send, False

    async def send(self, message: Message) -> None:
        self._started = True
        await self._send(message)

    async def problem(self, status: int, line: str, retry: bool = False) -> None:
        """Send a problem as JSON; if an answer has begun, it ends where it is."""
        if self._started:
            return
        body = as_json({"error": " ".join(line.split())})
        headers = [(b"content-type", JSON_TYPE.encode()), (b"content-length", b"%d" % len(body))]
        if retry:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def as_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8. Lone surrogates are escaped.

    Raises:
      ValueError: for NaN and infinity, which JSON does not have.

    Example:
      >>> as_json({"text": "猫\\ud800"}) == '{"text":"猫\\\\ud800"}'.encode()
      True
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
