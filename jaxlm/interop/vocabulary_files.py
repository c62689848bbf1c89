"""Vocabularies of other programs: files of tokens, and the tokenizers and protocols they mean."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxlm.data.json_files import read_json
from jaxlm.data.tokenizers import Characters, Tokenizer, Words, from_saved
from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.errors import UserError, choose, reason
from jaxlm.runs.protocol import Protocol

# The unknown word, as toolkits spell it; the first that a vocabulary lists counts.
UNKNOWN_WORDS = (UNK, "<UNK>", "<Unk>", "[UNK]", "xxunk", "_unk_")
# The token before a text in a vocabulary of fastai.
TEXT_START = "xxbos"
LINE_END = "</s>"
# A vocabulary file has at most this many bytes.
MOST_BYTES = 1 << 29
# How a line of a vocabulary of characters writes a character that a line cannot hold.
WRITTEN = {"\\n": "\n", "\\t": "\t", "\\r": "\r"}


def read_vocabulary(path: Path, tokens: str) -> list[str]:
    """Return the tokens of a vocabulary file, in the order of their ids.

    The file has one token a line; or, if its name ends in .json, it is a list of tokens, or an
    object that maps each token to its id. In a vocabulary of characters the lines \\n, \\t and \\r
    are a line break, a tab and a carriage return.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "vocab.txt"
      ...     _ = path.write_text("the\\ncat\\n")
      ...     read_vocabulary(path, "words")
      ['the', 'cat']

    Args:
      path: the file.
      tokens: "words" or "chars".
    Raises:
      UserError: for a file that cannot be read, or is in no such form.
    """
    tokens = _plural(tokens)
    choose(TOKENIZERS, tokens, "tokens")
    try:
        if path.suffix == ".json":
            return _listed(path, read_json(path))
        # A device such as /dev/zero never ends.
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES:,} bytes: give a list of tokens")
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 (byte {error.start:,})") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    except UserError:
        raise
    except ValueError as error:
        why = " ".join(str(error).split())[:160]
        raise UserError(f"{path} is no JSON list of tokens: {why}") from None
    lines = text.removesuffix("\n").split("\n")
    lines = [WRITTEN.get(line, line) for line in lines] if tokens == "chars" else lines
    for number, line in enumerate(lines, 1):
        if not line:
            raise UserError(
                f"{path}, line {number}: empty; write tokens that are no plain lines in a JSON list"
            )
    return lines


def make_tokenizer(listed: list[str], tokens: str) -> tuple[Tokenizer, Protocol, list[str]]:
    """Return the tokenizer and the protocol that a list of tokens means, and lines that tell it.

    Words: if the list has `<eos>` or `</s>`, every line ends in `<eos>`, which stands before the
    text too. If it has fastai's xxbos, this token stands before each line. Otherwise each line is
    scored on its own, without its first word. Characters: a line break stands before the text, if
    the list has one. Tokens that are not listed become the unknown word, if the list has one of
    UNKNOWN_WORDS.

    Example:
      >>> make_tokenizer(["the", "cat", "<eos>"], "words")[1]
      Protocol(rows=False, last_only=False, start='fresh')

    Args:
      listed: the tokens in the order of their ids.
      tokens: "words" or "chars".
    Raises:
      UserError: for tokens that are listed twice, or cannot be saved, and another value of
        `tokens`.
    """
    return choose(TOKENIZERS, _plural(tokens), "tokens")(listed)


def _listed(path: Path, content: Any) -> list[str]:
    """Return the tokens of a JSON list, or of an object that maps tokens to ids."""
    if isinstance(content, dict):
        ids = list(content.values())
        if all(type(number) is int for number in ids) and sorted(ids) == list(range(len(ids))):
            return sorted(content, key=content.__getitem__)
        raise UserError(f"{path}: the object must map each token to its id, 0, 1, 2, ...")
    if not isinstance(content, list) or not all(isinstance(token, str) for token in content):
        raise UserError(f"{path}: expected a JSON list of tokens")
    return content


def _words(tokens: list[str]) -> tuple[Tokenizer, Protocol, list[str]]:
    """Return the tokenizer, the protocol and what to tell for a vocabulary of words."""
    if LINE_END in tokens and EOS not in tokens:
        tokens = [EOS if token == LINE_END else token for token in tokens]
    has_eos = EOS in tokens
    start = EOS if has_eos else TEXT_START if TEXT_START in tokens else None
    unknown = next((token for token in UNKNOWN_WORDS if token in tokens), None)
    tokenizer = Words(_vocabulary(tokens, unknown, start), has_eos)
    told = ["tokens: words between white space", _unknown_note(unknown)]
    if has_eos:
        told.append(f"{EOS} ends every line, and stands before the text")
    elif start:
        told.append(f"{start} stands before each line, and lines have no end token")
    else:
        told.append("no <eos>: each line is scored on its own, and its first word is not predicted")
    return tokenizer, Protocol(rows=not has_eos), told


def _characters(tokens: list[str]) -> tuple[Tokenizer, Protocol, list[str]]:
    """Return the tokenizer, the protocol and what to tell for a vocabulary of characters."""
    start = "\n" if "\n" in tokens else None
    unknown = next((token for token in UNKNOWN_WORDS if token in tokens), None)
    tokenizer = Characters(_vocabulary(tokens, unknown, start))
    told = ["tokens: characters", _unknown_note(unknown)]
    long = [token for token in tokens if len(token) != 1 and token != unknown]
    if long:
        shown = " ".join(map(repr, long[:4]))
        told.append(f"{len(long)} tokens are no single character, and in no text: {shown}")
    if start:
        told.append("a line break stands before the text")
    else:
        told.append("no line break: each line is scored on its own, without its first character")
    return tokenizer, Protocol(rows=start is None), told


TOKENIZERS: dict[str, Callable[[list[str]], tuple[Tokenizer, Protocol, list[str]]]] = {
    "words": _words,
    "chars": _characters,
}
"""How a list of tokens becomes a tokenizer and a protocol, by the name of the tokenizer."""


def _vocabulary(tokens: list[str], unknown: str | None, start: str | None) -> Vocabulary:
    """Return a vocabulary, after a check that its tokens can be written."""
    vocabulary = Vocabulary(tuple(tokens), unknown, start)
    state: dict[str, Any] = {}
    from_saved(
        {"tokenizer": "words", "tokens": tokens, "unk": unknown, "start": start, "state": state}
    )
    return vocabulary


def _unknown_note(unknown: str | None) -> str:
    if unknown is None:
        return "no <unk>: a token that is not listed is an error"
    return f"unknown tokens become {unknown}"


def _plural(tokens: str) -> str:
    """Return the name of the tokenizer that `word` or `words`, `char` or `chars` means."""
    return f"{tokens}s" if f"{tokens}s" in TOKENIZERS else tokens
