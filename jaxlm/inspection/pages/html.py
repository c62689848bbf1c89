"""One HTML file with its styles, scripts and data inside, which asks the network for nothing."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

ASSETS = "assets"
# Largest value of the fixed-point types.
FIXED = {"uint8": 255, "uint16": 65535}


def asset(name: str) -> str:
    """Return the text of a file in jaxlm/inspection/pages/assets."""
    return resources.files(__package__).joinpath(ASSETS, name).read_text(encoding="utf-8")


def packed(array: Any, dtype: str = "float32") -> dict[str, Any]:
    """Return an array as a JSON object, whose `data` is base64 of its bytes, little-endian.

    `tools.array` of page.js reads it.

    Args:
      array: any array of numbers.
      dtype: "float32", "float16", "int32", or "uint16" and "uint8" for numbers in fixed point:
        value = low + step * integer, with low and step from the least and the largest number.

    Example:
      >>> packed([0.0, 0.5, 1.0], "uint8")["data"], packed([7], "int32")["shape"]
      ('AID/', [1])
    """
    values = np.asarray(array)
    result: dict[str, Any] = {"dtype": dtype, "shape": list(values.shape)}
    if dtype in FIXED:
        values = np.asarray(values, np.float64)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        step = (high - low) / FIXED[dtype] or 1.0
        values = np.rint((values - low) / step)
        result |= {"low": low, "step": step}
    raw = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
    return result | {"data": base64.b64encode(raw).decode("ascii")}


def as_json(data: Any) -> str:
    """Return `data` as JSON that may stand inside a <script> element.

    The text has no `<`, so that it cannot end the element, and no lone surrogate. A number that is
    not finite becomes null. The numbers are those of Python to the last digit.

    Example:
      >>> as_json({"text": "</script>", "nll": float("nan")})
      '{"text":"\\\\u003c/script>","nll":null}'
    """
    text = json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(data: Any) -> Any:
    """Return `data` with NumPy's numbers and arrays as Python's."""
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return _plain(data.tolist())
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not np.isfinite(data):
        return None
    return data


def document(
    title: str,
    lang: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Any,
    policy: Mapping[str, str] | None = None,
) -> str:
    """Return a page as ONE HTML file.

    The Content-Security-Policy forbids every request, and every script but those given here.

    Args:
      title: the title of the window.
      lang: the language of the page at first, "en" or "zh".
      styles: style sheets.
      scripts: JavaScript, run in order after the page is read.
      data: JSON-able; the content of the element `#data`.
      policy: more directives of the policy, such as {"worker-src": "blob:"}.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    directives = {
        "default-src": "'none'",
        "script-src": hashes or "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    } | dict(policy or {})
    content = "; ".join(f"{name} {value}" for name, value in directives.items())
    elements = [
        "<!doctype html>",
        f'<html lang="{html.escape(lang)}">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{content}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="generator" content="jaxlm">',
        '<link rel="icon" href="data:,">',
        f"<title>{html.escape(title.replace(chr(0), ' '))}</title>",
        *(f"<style>{style}</style>" for style in styles),
        "</head>",
        "<body>",
        '<div id="page"></div>',
        f'<script type="application/json" id="data">{as_json(data)}</script>',
        *(f"<script>{script}</script>" for script in scripts),
        "</body>",
        "</html>",
    ]
    return "\n".join(elements) + "\n"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
