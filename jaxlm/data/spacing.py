"""Whether a text has spaces between its words."""

import re
from collections.abc import Iterable

LOOK_AT = 1 << 20
"""How many characters of a text are looked at."""
# Letters of scripts that are written without spaces between words, and the number of letters from
# which a run of them is longer than a word is on average.
_SCRIPTS = (
    # Chinese and Japanese: han, kana.
    (
        re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"),
        3.5,
    ),
    # Thai, Lao, Burmese, Khmer.
    (re.compile("[\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff]"), 12.0),
)


def mostly_unspaced(lines: Iterable[str]) -> bool:
    """Return whether most letters of a text are in words that no spaces separate.

    A text with spaces between Chinese, Japanese or Thai words has short words, and is not unspaced.
    Long words of other scripts, such as addresses and code, do not count.

    Example:
      >>> mostly_unspaced(["今天天气很好，我们去公园玩。"]), mostly_unspaced(["我 喜欢 玩具"])
      (True, False)

    Args:
      lines: the lines of the text, of which the first LOOK_AT characters are looked at.
    """
    characters, unspaced, seen = 0, 0, 0
    counts = [[0, 0] for _ in _SCRIPTS]
    for line in lines:
        for word in line[: LOOK_AT - seen].split():
            characters += len(word)
            if word.isascii():
                continue
            for (letters, _), count in zip(_SCRIPTS, counts, strict=True):
                if found := len(letters.findall(word)):
                    count[0] += found
                    count[1] += 1
        seen += len(line)
        if seen >= LOOK_AT:
            break
    for (_, longest), (letters_found, words) in zip(_SCRIPTS, counts, strict=True):
        if words and letters_found / words > longest:
            unspaced += letters_found
    return unspaced > characters / 2
