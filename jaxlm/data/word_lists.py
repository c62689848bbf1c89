"""Files that list the words of a vocabulary, one a line."""

from pathlib import Path

from jaxlm.data.compression import open_bytes, reading_errors
from jaxlm.data.vocabulary import EOS, UNK
from jaxlm.errors import SettingError, UserError

IGNORED = (EOS, "<s>", "</s>")
"""Marks of a line's start and end that lists of other programs have. They are no words."""
_LONGEST_SHOWN = 60


def read_word_list(path: str, unit: str) -> tuple[str, ...]:
    """Return the words of a file in its order, without `<s>`, `</s>` and `<eos>`.

    The file is UTF-8, plain or compressed by gzip or zstd. Empty lines are skipped, and blanks
    around a word do not count. For characters, a line has one character; a line of one blank is the
    blank.

    Args:
      path: the file.
      unit: "words" or "characters".
    Raises:
      SettingError: if there is no such file.
      UserError: if the file cannot be read, is not UTF-8, lists nothing, lists a word other than
        `<unk>` twice, or has a line of several words, or of several characters.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "words.txt"
      ...     _ = path.write_text("<unk>\\nthe\\ncat\\n")
      ...     read_word_list(str(path), "words")
      ('<unk>', 'the', 'cat')
    """
    file = Path(path).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise SettingError("vocabulary_file", path, f"{what}: give a text file, one word a line")
    lines: dict[str, int] = {}
    for number, text in enumerate(_read(file, path), start=1):
        word = text.strip() or (text[:1] if unit == "characters" else "")
        if not word or word in IGNORED:
            continue
        shown = repr(word if len(word) <= _LONGEST_SHOWN else word[:_LONGEST_SHOWN] + "...")
        if "\0" in word:
            raise UserError(f"{path}, line {number}: a NUL character, so this is no list of words")
        if unit == "characters" and len(word) > 1 and word != UNK:
            raise UserError(f"{path}, line {number}: {shown} is not one character")
        if len(word.split()) > 1:
            raise UserError(f"{path}, line {number}: {shown} has a blank: write one word a line")
        if word in lines and word != UNK:
            raise UserError(f"{path}, line {number}: {shown} is on line {lines[word]} already")
        lines[word] = number
    words = tuple(lines)
    if not set(words) - {UNK}:
        raise UserError(f"{path} lists no {unit}: write one a line")
    return words


def _read(file: Path, path: str) -> list[str]:
    """Return the lines of a file without their line breaks; `path` is for errors."""
    with reading_errors(file), open_bytes(file) as opened:
        data = opened.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8: save the list as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
