r"""N-gram models as ARPA files, the text format that KenLM, SRILM and IRSTLM share. NumPy only.

    \data\
    ngram 1=4
    ngram 2=3

    \1-grams:
    -99	<s>	-0.30103
    -0.60206	sun	-0.1249387
    ...
    \2-grams:
    -0.1760913	<s> sun
    ...
    \end\

A line is log₁₀ P(w | h), the words h w, and log₁₀ backoff(h w); the last is left out at the highest
order, and where it is 0 may be left out elsewhere. <s> and </s> are a line's start and end. -99
and below stand for log 0. What comes before \data\ is not part of the model.

A token that could not stand in such a line is escaped: \x20 or \u2003 is a white space or control
character; \e, alone, the empty token; and an ordinary word that is spelled <s>, </s> (or <UNK>,
which KenLM takes for <unk>, where that is a word too) begins with \x3c. In a token with an escape,
or with what would be read as one, \\ is a backslash; in others, such as PTB's 1\/2, \ is one.

Source: the format is Doug Paul's, of MIT Lincoln Laboratory; SRILM's manual, ngram-format(5);
Heafield, "KenLM: faster and smaller language model queries", 2011.
"""

import contextlib
import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from jaxlm.data.vocabulary import EOS, UNK
from jaxlm.errors import UserError
from jaxlm.interop.arpa_text import (
    LOG_ZERO,
    Lines,
    Section,
    open_maybe_gzip,
    read_sections,
)
from jaxlm.ngrams.tables import NOTHING, Tables

# N-grams are written in blocks of this many, each one string.
BLOCK = 1 << 16
LINE_START, LINE_END = "<s>", "</s>"
UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# A probability this close to 1 is 1: rounding must not carry it over, which readers refuse.
LOG_ROUNDING = 1e-12


def write_arpa(
    path: Path, tables: Tables, tokens: Sequence[str], *, end: str | None, across_lines: bool
) -> None:
    """Writes a back-off model, compressed by gzip if the file's name ends in .gz.

    tokens: the V tokens in id order. end: the token that ends a line, None if there is none.
    Where contexts are cut at a line's start, `end` is written as </s>, and the line's start, id V,
    as <s>. Where they run `across_lines`, `end` is a word like any other. Either way KenLM wants
    to see both <s> and </s>, so one that the model lacks is listed with probability 0.

    The file is written aside and then renamed. Raises UserError if it cannot be written.
    """
    path = Path(path)
    listed = None if across_lines else end
    if len(tokens) != tables.vocab_size or (listed is not None and listed not in tokens):
        raise ValueError(f"{len(tokens)} tokens, end {end!r}, of {tables.vocab_size} in the tables")
    partial = path.with_name(path.name + ".partial")
    try:
        with _create(partial, path.suffix == ".gz") as file:
            for text in _sections(tables, tokens, listed):
                file.write(text.encode("utf-8"))
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def _create(path: Path, compress: bool) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(path, "wb"))
        if compress:
            # No name and no time of day: the same model is the same file.
            packed = gzip.GzipFile("", "wb", 6, file, mtime=0)
            file = cast(IO[bytes], stack.enter_context(packed))
        yield file


def _sections(tables: Tables, tokens: Sequence[str], end: str | None) -> Iterator[str]:
    """The text of the file, in pieces."""
    names, V = _names(tokens, end), tables.vocab_size
    counts = [len(names), *tables.sizes[1:]]
    yield "\\data\\\n" + "".join(f"ngram {n}={count}\n" for n, count in enumerate(counts, 1))
    for order in range(1, tables.order + 1):
        yield f"\n\\{order}-grams:\n"
        backoffs = tables.backoffs[order - 1] if order < tables.order else None
        for start in range(0, len(tables.probabilities[order - 1]), BLOCK):
            piece = slice(start, start + BLOCK)
            yield _block(
                tables.probabilities[order - 1][piece],
                names[tables.words(order, piece)],
                None if backoffs is None else backoffs[piece],
            )
        if order == 1 and len(names) > V + 1:
            yield f"{LOG_ZERO:g}\t{LINE_END}\n"
    yield "\n\\end\\\n"


def _names(tokens: Sequence[str], end: str | None) -> np.ndarray:
    """The words of the file by id, object [V + 1], and </s> at its end if no token is that."""
    # KenLM takes both for one.
    reserved = {LINE_START, LINE_END} | ({"<UNK>"} if UNK in tokens else set())
    names = [LINE_END if token == end else escape(token, reserved) for token in tokens]
    names += [LINE_START] if end is not None else [LINE_START, LINE_END]
    return np.array(names, object)


def _block(probabilities: np.ndarray, names: np.ndarray, backoffs: np.ndarray | None) -> str:
    """Lines of n-grams; one format of them all is several times as fast as one a line."""
    columns = [_logs(probabilities)[:, None].astype(object), names]
    line = "%.9g\t" + " ".join(["%s"] * names.shape[1])
    if backoffs is not None:
        columns.append(_logs(backoffs)[:, None].astype(object))
        line += "\t%.9g"
    values: list[Any] = np.hstack(columns).ravel().tolist()
    return (f"{line}\n" * len(names)) % tuple(values)


def _logs(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log10(values), LOG_ZERO)
    return np.where(np.abs(logs) < LOG_ROUNDING, 0.0, logs)


class Arpa(NamedTuple):
    """A model that was read. tokens: in id order, </s> as <eos> and escapes undone; across_lines:
    whether contexts run over line ends (they do if the file knows neither starts nor ends).
    """

    tables: Tables
    tokens: tuple[str, ...]
    across_lines: bool


def read_arpa(path: Path) -> Arpa:
    r"""Reads a back-off model; gzip is recognised by its first bytes.

    A </s> of probability 0 that is in no n-gram is there for form's sake and left out. Escapes are
    undone unless that would make two words one: then the file is not `write_arpa`'s, and its
    backslashes are just that. Raises UserError, with the line, at whatever is not as it should be;
    among this, an n-gram whose words without the last are not listed as an n-gram themselves.
    """
    path = Path(path)
    try:
        with open_maybe_gzip(path) as file:
            lines = Lines(path, file)
            index: dict[bytes, int] = {}
            sections = read_sections(lines, index)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return _build(lines, sections, index)


def _build(lines: Lines, sections: list[Section], index: dict[bytes, int]) -> Arpa:
    words = list(index)
    start, end = (index.get(word.encode(), NOTHING) for word in (LINE_START, LINE_END))
    unigrams, *longer = sections
    _check_words(lines, longer, start, end)
    has_end = end != NOTHING and bool(
        unigrams.probabilities[end] > 0 or any((s.words[:, -1] == end).any() for s in longer)
    )
    has_start = start != NOTHING and any((s.words[:, 0] == start).any() for s in longer)
    kept = np.array([place != start and (place != end or has_end) for place in range(len(words))])
    V = int(kept.sum())
    if not V:
        lines.fail(lines.number, "the 1-grams list no words")
    # The line's start is V, the last.
    ids = np.where(kept, np.cumsum(kept) - 1, V)
    after_start = unigrams.backoffs[start] if start != NOTHING else 1.0
    keys: list[np.ndarray] = []
    probabilities = [np.append(unigrams.probabilities[kept], 0.0)]
    backoffs = [np.append(unigrams.backoffs[kept], after_start)]
    for section in longer:
        found, by_key = _sort(lines, section, ids[section.words], Tables(V, tuple(keys), (), ()))
        keys.append(found)
        probabilities.append(section.probabilities[by_key])
        backoffs.append(section.backoffs[by_key])
    return Arpa(
        Tables(V, tuple(keys), tuple(probabilities), tuple(backoffs[:-1])),
        _tokens(lines, unigrams, words, kept),
        not has_end and not has_start,
    )


def _check_words(lines: Lines, longer: list[Section], start: int, end: int) -> None:
    """Fails at <s> that is not first, and at </s> that is not last."""
    for section in longer:
        for wrong, what in (
            (section.words[:, 1:] == start, f"{LINE_START} may only be the first word"),
            (section.words[:, :-1] == end, f"{LINE_END} may only be the last word"),
        ):
            if wrong.any():
                lines.fail(int(section.lines[wrong.any(axis=1).argmax()]), f"{what} of an n-gram")


def _sort(
    lines: Lines, section: Section, ids: np.ndarray, listed: Tables
) -> tuple[np.ndarray, np.ndarray]:
    """The sorted keys of the n-grams (see `jaxlm.ngrams`), and their places in the section. Fails
    at an n-gram whose prefix is not listed, or that was listed before.
    """
    order = ids.shape[1]
    prefix = ids[:, 0]
    for length in range(2, order):
        prefix = listed.find(length, prefix, ids[:, length - 1])
    if (prefix == NOTHING).any():
        line = int(section.lines[(prefix == NOTHING).argmax()])
        lines.fail(line, f"what comes before the last word is not among the {order - 1}-grams")
    keys = prefix * (listed.vocab_size + 1) + ids[:, -1]
    by_key = np.argsort(keys, kind="stable")
    keys = keys[by_key]
    again = np.flatnonzero(keys[1:] == keys[:-1])
    if len(again):
        # The first line that repeats another: sorting kept the order of those that are the same.
        place = again[by_key[again + 1].argmin()]
        first, second = section.lines[by_key[[place, place + 1]]]
        lines.fail(int(second), f"the {order}-gram is on line {first} already")
    return keys, by_key


def _tokens(
    lines: Lines, section: Section, words: list[bytes], kept: np.ndarray
) -> tuple[str, ...]:
    places = np.flatnonzero(kept)
    names: list[str] = []
    for place in places:
        try:
            names.append(words[place].decode("utf-8"))
        except UnicodeDecodeError:
            what = f"expected text in UTF-8, found {words[place][:60]!r}"
            lines.fail(int(section.lines[place]), what)
    tokens = [EOS if name == LINE_END else unescape(name) for name in names]
    if len(set(tokens)) < len(tokens):
        tokens = [EOS if name == LINE_END else name for name in names]
    if len(set(tokens)) < len(tokens):
        line = int(section.lines[places[names.index(EOS)]])
        lines.fail(line, f"{EOS} is a word here, and so is {LINE_END}, which is read as {EOS}")
    return tuple(tokens)


def escape(token: str, reserved: set[str]) -> str:
    """The token as a word of an ARPA file."""
    if not token:
        return r"\e"
    if token in reserved:
        return f"\\x{ord(token[0]):02x}{token[1:]}"
    # Most backslashes stay as they are, so that the words are those of other programs' texts.
    plain = UNPRINTABLE.search(token) is None and unescape(token) == token
    return token if plain else UNPRINTABLE.sub(_code, token.replace("\\", r"\\"))


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def unescape(word: str) -> str:
    """The token that `escape` was given; a backslash that begins no escape is kept."""
    if word == r"\e":
        return ""
    return re.sub(
        r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4}))",
        lambda match: match[1] or chr(int(match[2] or match[3], 16)),
        word,
    )
