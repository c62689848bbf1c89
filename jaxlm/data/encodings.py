"""Encodings of text files: the names that are known, and what a file that is not UTF-8 may be."""

import codecs
import re

from jaxlm.errors import SettingError, nearest

# Marks at the beginning of a file. The marks of UTF-32 come first: they begin like UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Files that are no text, by their first bytes.
_NO_TEXT = (
    (b"PK\x03\x04", "a zip archive, as .docx, .xlsx and .epub are: unpack it, or save it as text"),
    (b"%PDF", "a PDF: save it as plain text"),
    (b"BZh", "compressed by bzip2: unpack it, or compress it by gzip or zstd"),
    (b"\xfd7zXZ", "compressed by xz: unpack it, or compress it by gzip or zstd"),
    (b"\xd0\xcf\x11\xe0", "an old Office document: save it as plain text"),
)
# The encodings that text is searched for, by preference where the detector finds no difference.
_ABOUT = {
    "gb18030": "Chinese, as GBK and GB2312",
    "big5": "traditional Chinese",
    "cp932": "Japanese, Shift-JIS",
    "euc_kr": "Korean",
    "euc_jp": "Japanese",
    "cp1252": "Western European, nearly Latin-1",
    "cp1251": "Cyrillic",
    "koi8_r": "Cyrillic",
    "cp1250": "Central European",
    "cp1253": "Greek",
    "cp1254": "Turkish",
    "cp1255": "Hebrew",
    "cp1256": "Arabic",
    "cp874": "Thai",
}
_MULTIBYTE = list(_ABOUT)[:5]
HEAD_BYTES = 1 << 16
"""How many bytes of a file are looked at."""


def check_encoding(name: str) -> None:
    """Raise SettingError unless `name` is an encoding of text that Python knows.

    Example:
      >>> check_encoding("latin1")
      >>> check_encoding("latin-11")
      Traceback (most recent call last):
      jaxlm.errors.SettingError: `encoding` latin-11: is not known: did you mean latin_1?
    """
    try:
        # bytes.decode refuses codecs that are not for text, such as base64. It does not look up the
        # codec if there is nothing to decode.
        b" ".decode(name)
    except UnicodeDecodeError:
        return
    except (LookupError, ValueError) as error:
        if isinstance(error, LookupError) and "not a text encoding" in str(error):
            raise SettingError("encoding", name, "is not an encoding of text") from None
        from encodings.aliases import aliases

        close = nearest(name.lower().replace("-", "_"), sorted(set(aliases.values())), 1)
        hint = f"did you mean {close[0]}?" if close else "give for instance gb18030 or cp1252"
        raise SettingError("encoding", repr(name)[1:-1][:60], f"is not known: {hint}") from None


def is_utf8(name: str | None) -> bool:
    """Return whether an `encoding` is UTF-8, the default."""
    return name is None or codecs.lookup(name).name in ("utf-8", "utf-8-sig")


def other_than_utf8(head: bytes) -> str | None:
    """Return what a file is that its first bytes show not to be UTF-8, or None.

    UTF-16 of English text has no byte that UTF-8 could not have. Without a mark, it is recognised
    by a NUL at every second byte.

    Example:
      >>> other_than_utf8("the cat".encode("utf-16-le"))
      'UTF-16 without a mark (NULs at every second byte): give `encoding` utf-16-le'
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            # Four bytes of UTF-32 could be UTF-16's mark and a NUL.
            return f"{name.upper()} (it begins with its mark): give `encoding` {name}"
    for magic, what in _NO_TEXT:
        if head.startswith(magic):
            return what
    pairs = len(head) // 2
    even, odd = (head[start : 2 * pairs : 2].count(0) for start in (0, 1))
    for more, less, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if more > 1 and more > pairs / 3 and less <= pairs / 50:
            return f"UTF-16 without a mark (NULs at every second byte): give `encoding` {name}"
    return None


def seems_to_be(head: bytes, around: bytes, line: bytes) -> str:
    """Return a sentence on what a file that is not UTF-8 seems to be, and what to do.

    Args:
      head: the first bytes of the file.
      around: the bytes around the first byte that is not UTF-8, from the start of a line.
      line: the line of that byte, which shows the user whether the guess is right.
    """
    certain = other_than_utf8(head)
    if certain is not None:
        return f"It is {certain}"
    decoded = around.decode("utf-8", "replace")
    wrong = decoded.count("\ufffd")
    if sum(character > "\x7f" for character in decoded) > 4 * wrong:
        return "The text around it is UTF-8, so the file is damaged there: mend or remove the line"
    for name in ("utf-16-le", "utf-16-be"):
        # Chinese in UTF-16 has NULs at its spaces and line breaks alone.
        place = name.endswith("le")
        if around.count(0) and not around[not place :: 2].count(0) and len(head) % 2 == 0:
            return (
                f"It seems to be UTF-16 without a mark: give `encoding` {name}{_shown(head, name)}"
            )
    guesses = _detected(around)
    if not guesses:
        return "Its encoding is not recognised: give it as `encoding`"
    best, *others = guesses
    also = f", else try {' or '.join(others[:2])}" if others else ""
    return (
        f"It seems to be {best} ({_ABOUT[best]}): give `encoding` {best}{_shown(line, best)}{also}"
    )


def _shown(line: bytes, encoding: str) -> str:
    """Return how a line reads in an encoding, for a person to judge the guess by."""
    text = line.decode(encoding, "replace").strip().splitlines() or [""]
    return f" if {text[0][:30]!r} is right"


def _detected(data: bytes) -> list[str]:
    """Return the encodings in _ABOUT that text may have, the most probable first."""
    # Imported here: it takes a tenth of a second, and only errors need it.
    from charset_normalizer import from_bytes

    # Lines of ASCII alone would count for every encoding alike.
    lines = [line for line in data.splitlines() if not line.isascii()]
    sample = b"\n".join(lines)
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", sample)]
    in_pairs = bool(runs) and all(run % 2 == 0 for run in runs)
    candidates = _MULTIBYTE if in_pairs else list(_ABOUT)
    matches = list(from_bytes(sample, cp_isolation=candidates))
    if in_pairs and not matches:
        matches = list(from_bytes(sample, cp_isolation=list(_ABOUT)))
    if not matches:
        return []
    best = matches[0]
    level = {
        name
        for match in matches
        if (match.chaos, match.coherence) == (best.chaos, best.coherence)
        for name in match.could_be_from_charset
    }
    return [name for name in _ABOUT if name in level]
