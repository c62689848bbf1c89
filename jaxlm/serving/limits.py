"""Limits of the service: how much a client may ask for."""

from dataclasses import dataclass
from typing import Annotated

from jaxlm.errors import UserError
from jaxlm.ranges import Positive, Range, Size, check_settings


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Raises:
      SettingError: for a value out of its range.

    Example:
      >>> Limits(max_sentences=10).max_sentences
      10
    """

    max_characters: Size = 20_000
    """Characters of the texts of a request."""
    max_tokens: Size = 5_000
    """Tokens of the texts of a request."""
    max_sentences: Size = 1_000
    """Sentences of a request to /score."""
    max_top: Size = 1_000
    """Next words of a request to /next."""
    max_length: Annotated[int, Range(1, 1_000_000)] = 1_000
    """Tokens that a request to /generate may ask for."""
    max_samples: Annotated[int, Range(1, 1_000)] = 8
    """Continuations that a request to /generate may ask for."""
    max_body: Size = 1 << 20
    """Bytes of the body of a request."""
    max_requests: Size = 256
    """Requests that may wait or be computed at one time; another request gets 503."""
    timeout: Positive = 60.0
    """Seconds until a request that has no answer yet gets 504."""

    def __post_init__(self) -> None:
        check_settings(self)


class Refusal(UserError):  # noqa: N818 (it is no failure)
    """A request that is refused with another status of HTTP than 422.

    Args:
      status: the status.
      message: one line that says what was wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


TOO_LARGE = 413


def check_most(what: str, count: int, most: int, then: str) -> None:
    """Raise Refusal if a request has more of something than the service accepts.

    Args:
      what: the things that are counted, such as "characters".
      count: their number in the request.
      most: the largest accepted number.
      then: what the client can do, such as "send a shorter text".

    Example:
      >>> check_most("characters", 30000, 20000, "send a shorter text")
      Traceback (most recent call last):
      jaxlm.serving.limits.Refusal: 30,000 characters are more than the 20,000 that this server...
    """
    if count > most:
        raise Refusal(
            TOO_LARGE, f"{count:,} {what} are more than the {most:,} that this server takes: {then}"
        )
