"""Read a JSON file that may come from a stranger: its size and its depth are bounded."""

import json
import os
from pathlib import Path
from typing import Any

# A config.json has a few kilobytes, the tokenizer.json of a million words about 20 MB.
MOST_BYTES = {"config.json": 1 << 22, "prepared.json": 1 << 26}
MOST_BYTES_ELSEWHERE = 1 << 29
DEEPEST = 20


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if the file is too large, is no JSON in UTF-8, or is nested too deeply.
    """
    size, most = os.path.getsize(path), MOST_BYTES.get(path.name, MOST_BYTES_ELSEWHERE)
    if size > most:
        raise ValueError(f"{path.name} has {size:,} bytes, more than {most:,}")
    # A link to a device such as /dev/zero has a size of 0, and never ends.
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} has more than {most:,} bytes")
    return parse_json(content.decode("utf-8"), path.name)


def parse_json(text: str, name: str) -> Any:
    """Return the value of a JSON text; `name` names the text in an error.

    Raises:
      ValueError: if the text is no JSON, or is nested too deeply.

    Example:
      >>> parse_json("[" * 1000 + "]" * 1000, "config.json")
      Traceback (most recent call last):
      ValueError: config.json is nested more than 20 levels deep
    """

    try:
        value = json.loads(text)
    except RecursionError:
        value = None
        too_deep = True
    else:
        too_deep = _is_deeper(value, DEEPEST)
    if too_deep:
        raise ValueError(f"{name} is nested more than {DEEPEST} levels deep")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and objects are nested more than `depth` levels deep."""
    level = [value]
    for _ in range(depth):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict | list):
                items = item.values() if isinstance(item, dict) else item
                inner.extend(one for one in items if isinstance(one, dict | list))
        if not inner:
            return False
        level = inner
    return True
