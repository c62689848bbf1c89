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

A line holds log₁₀ P(w | h), the words h w, and log₁₀ backoff(h w). N-grams of the highest order
have no backoff. At other orders a backoff of 1, whose logarithm is 0, may be left out. <s> and </s>
are the start and the end of a line. Logarithms of -99 and below mean log 0. Text before \data\ is
ignored.

Tokens that cannot stand in a line are escaped:

- \x20 is a blank or a control character of ASCII, by its code in hexadecimal. Other white space,
  such as U+3000, divides no words in KenLM and SRILM, and is written as it is. Earlier versions
  wrote it as \u3000, which is read;
- \e, alone, is the empty token;
- \x3c is the < of an ordinary word that is spelled <s> or </s>. The word <UNK> is escaped in the
  same way if <unk> is a word too, because KenLM does not distinguish the two.

In a token that has an escape, or that could be read as an escape, \\ is a backslash. In all other
tokens, such as PTB's 1\/2, a backslash stands for itself. In a file with a word that jaxlm would
not write, such as \u4e2d or \x41, every backslash stands for itself.

Source: the format is by Doug Paul, MIT Lincoln Laboratory; SRILM's manual, ngram-format(5);
Heafield, "KenLM: faster and smaller language model queries", 2011.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data.vocabulary import EOS, UNK
from jaxlm.errors import UserError, reason
from jaxlm.interop.arpa_text import (
    LOG_ZERO,
    Lines,
    Section,
    read_sections,
)
from jaxlm.interop.files import create, open_maybe_gzip
from jaxlm.ngrams.tables import NOTHING, Tables

# The number of n-grams that are formatted at a time.
BLOCK = 1 << 16
LINE_START, LINE_END = "<s>", "</s>"
ESCAPED = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
# What earlier versions escaped. A lone surrogate stands for a byte that is not UTF-8.
ONCE_ESCAPED = re.compile(r"[\s\x00-\x1f\x7f-\x9f\udc80-\udcff]")
UNKNOWN_WORDS = (UNK, "<UNK>", "<Unk>", "[UNK]")
"""The unknown word, as toolkits spell it; the first that a file lists counts."""
# Logarithms this close to 0 are written as 0: readers refuse a probability above 1.
LOG_ROUNDING = 1e-12


def write_arpa(
    path: Path, tables: Tables, tokens: Sequence[str], *, end: str | None, across_lines: bool
) -> None:
    """Write a back-off model as an ARPA file, compressed by gzip if its name ends in .gz.

    The id V, the start of a line, is written as <s>. If contexts stay within a line, `end` is
    written as </s>. KenLM requires both <s> and </s>, so each of them that the model lacks is
    listed with the probability 0. The file is written under another name and then renamed.

    Args:
      path: the file to write.
      tables: the back-off model.
      tokens: the V tokens in the order of their ids.
      end: the token that ends a line; None if there is no such token.
      across_lines: whether contexts reach over line ends. Then `end` is an ordinary word.

    Raises:
      UserError: if the file cannot be written.
      ValueError: if `tokens` or `end` belong to another model.

    Example:
      >>> import tempfile
      >>> from jaxlm.ngrams.counts import Sequences, count_ngrams
      >>> from jaxlm.ngrams.smoothing import modified_kneser_ney
      >>> text = Sequences.lines(np.array([0, 1, 2, 0, 0, 2]), end_id=2, vocab_size=3)
      >>> tables = modified_kneser_ney(count_ngrams(text, 2, vocab_size=3)).tables
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "model.arpa"
      ...     write_arpa(path, tables, ["a", "b", "<eos>"], end="<eos>", across_lines=False)
      ...     model = read_arpa(path)
      >>> model.tokens, model.tables.sizes, model.across_lines
      (('a', 'b', '<eos>'), (3, 5), False)
    """
    path = Path(path)
    line_end = None if across_lines else end
    if len(tokens) != tables.vocab_size or (line_end is not None and line_end not in tokens):
        raise ValueError(f"{len(tokens)} tokens, end {end!r}, of {tables.vocab_size} in the tables")
    with create(path) as file:
        for text in _sections(tables, tokens, line_end):
            file.write(text.encode("utf-8"))


def _sections(tables: Tables, tokens: Sequence[str], end: str | None) -> Iterator[str]:
    """Yield the text of the file, block by block; `end` is the token to write as </s>."""
    names, V = _names(tokens, end), tables.vocab_size
    counts = [len(names), *tables.sizes[1:]]
    yield "\\data\\\n" + "".join(f"ngram {n}={count}\n" for n, count in enumerate(counts, 1))
    for order in range(1, tables.order + 1):
        yield f"\n\\{order}-grams:\n"
        backoffs = tables.backoffs[order - 1] if order < tables.order else None
        for start in range(0, len(tables.probabilities[order - 1]), BLOCK):
            block = slice(start, start + BLOCK)
            yield _block(
                tables.probabilities[order - 1][block],
                names[tables.words(order, block)],
                None if backoffs is None else backoffs[block],
            )
        if order == 1 and len(names) > V + 1:
            yield f"{LOG_ZERO:g}\t{LINE_END}\n"
    yield "\n\\end\\\n"


def _names(tokens: Sequence[str], end: str | None) -> np.ndarray:
    """Return the words of the file by id, object [V + 1], and </s> after them if `end` is None."""
    # KenLM reads <UNK> as <unk>.
    reserved = {LINE_START, LINE_END} | ({"<UNK>"} if UNK in tokens else set())
    names = [LINE_END if token == end else escape(token, reserved) for token in tokens]
    names += [LINE_START] if end is not None else [LINE_START, LINE_END]
    return np.array(names, object)


def _block(probabilities: np.ndarray, names: np.ndarray, backoffs: np.ndarray | None) -> str:
    """Return the lines of N n-grams as one string.

    Formatting all lines at once is several times as fast as formatting each line.

    Args:
      probabilities: float64 [N].
      names: the words of each n-gram, object [N, order].
      backoffs: float64 [N], or None at the highest order.
    """
    columns = [_logs(probabilities)[:, None].astype(object), names]
    line = "%.9g\t" + " ".join(["%s"] * names.shape[1])
    if backoffs is not None:
        columns.append(_logs(backoffs)[:, None].astype(object))
        line += "\t%.9g"
    values: list[Any] = np.hstack(columns).ravel().tolist()
    return (f"{line}\n" * len(names)) % tuple(values)


def _logs(values: np.ndarray) -> np.ndarray:
    """Return log₁₀ of `values`: at least -99, and exactly 0 if it is 0 up to rounding."""
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log10(values), LOG_ZERO)
    return np.where(np.abs(logs) < LOG_ROUNDING, 0.0, logs)


class Arpa(NamedTuple):
    """The content of an ARPA file.

    Attributes:
      tables: the back-off model.
      tokens: the tokens in the order of their ids; </s> becomes <eos>, and escapes are undone.
      across_lines: whether contexts reach over line ends: the file uses neither <s> nor </s>.
    """

    tables: Tables
    tokens: tuple[str, ...]
    across_lines: bool


def read_arpa(path: Path, *, add_unknown: bool = False) -> Arpa:
    r"""Read a back-off model from an ARPA file, plain or compressed by gzip.

    A </s> that has the probability 0 and is in no longer n-gram is left out. If a word has an
    escape that jaxlm would not write, the file is by another program, and all backslashes are kept.

    Args:
      path: the file.
      add_unknown: add `<unk>` with the probability 0, if the file lists no unknown word.
    Raises:
      UserError: if the file cannot be read, or a line is not in the format. The message names the
        line. A prefix that is not listed as an n-gram itself is an error too.
    """
    path = Path(path)
    try:
        with open_maybe_gzip(path) as file:
            lines = Lines(path, file)
            index: dict[bytes, int] = {}
            sections = read_sections(lines, index)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None
    if add_unknown and index and not any(word.encode() in index for word in UNKNOWN_WORDS):
        sections[0] = _with_word(sections[0], len(index))
        index[UNK.encode()] = len(index)
    return _build(lines, sections, index)


def _with_word(unigrams: Section, place: int) -> Section:
    """Return the 1-grams with a word of the probability 0 at `place`, their end."""
    return Section(
        np.append(unigrams.probabilities, 0.0),
        np.append(unigrams.words, np.array([[place]], unigrams.words.dtype), axis=0),
        np.append(unigrams.backoffs, 1.0),
        np.append(unigrams.lines, unigrams.lines[-1]),
    )


def _build(lines: Lines, sections: list[Section], index: dict[bytes, int]) -> Arpa:
    """Return the model of the `sections`; `index` maps each word to its place in the 1-grams."""
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
    # V, the last id, stands for the start of a line.
    ids = np.where(kept, np.cumsum(kept) - 1, V)
    after_start = unigrams.backoffs[start] if start != NOTHING else 1.0
    keys: list[np.ndarray] = []
    probabilities = [np.append(unigrams.probabilities[kept], 0.0)]
    backoffs = [np.append(unigrams.backoffs[kept], after_start)]
    # The n-grams of the order before, in the order of its table.
    shorter = np.arange(V + 1, dtype=np.int32)[:, None]
    for section in longer:
        words_NL = ids[section.words].astype(np.int32)
        section_keys, by_key = _sort(lines, section, words_NL, shorter, V)
        shorter = words_NL[by_key]
        keys.append(section_keys)
        probabilities.append(section.probabilities[by_key])
        backoffs.append(section.backoffs[by_key])
    return Arpa(
        Tables(V, tuple(keys), tuple(probabilities), tuple(backoffs[:-1])),
        _tokens(lines, unigrams, words, kept),
        not has_end and not has_start,
    )


def _check_words(lines: Lines, longer: list[Section], start: int, end: int) -> None:
    """Raise UserError if an n-gram has <s> after its first word, or </s> before its last word."""
    for section in longer:
        for is_wrong, rule in (
            (section.words[:, 1:] == start, f"{LINE_START} may only be the first word"),
            (section.words[:, :-1] == end, f"{LINE_END} may only be the last word"),
        ):
            if is_wrong.any():
                line = int(section.lines[is_wrong.any(axis=1).argmax()])
                lines.fail(line, f"{rule} of an n-gram")


def _sort(
    lines: Lines, section: Section, words_NL: np.ndarray, shorter_ML: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sort the n-grams of a section by key (see `jaxlm.ngrams`).

    Args:
      lines: the file, for its errors.
      section: the n-grams in the order of the file.
      words_NL: their word ids, int32; L is the order.
      shorter_ML: word ids of the n-grams of the order before, in the order of its table, int32.
      vocab_size: number of words V.
    Returns:
      The sorted keys, int64 [N], and the place of each key in the section, int64 [N].
    Raises:
      UserError: if the prefix of an n-gram is not listed, or an n-gram is listed twice.
    """
    order = words_NL.shape[1]
    prefix = _places(words_NL[:, :-1], shorter_ML)
    if (prefix == NOTHING).any():
        line = int(section.lines[(prefix == NOTHING).argmax()])
        lines.fail(line, f"the words before the last word are not among the {order - 1}-grams")
    keys = prefix * (vocab_size + 1) + words_NL[:, -1]
    by_key = np.argsort(keys, kind="stable")
    keys = keys[by_key]
    repeated = np.flatnonzero(keys[1:] == keys[:-1])
    if len(repeated):
        # The first line that repeats another line. The stable sort keeps equal keys in file order.
        place = repeated[by_key[repeated + 1].argmin()]
        first, second = section.lines[by_key[[place, place + 1]]]
        lines.fail(int(second), f"the {order}-gram is on line {first} already")
    return keys, by_key


def _places(rows_NL: np.ndarray, listed_ML: np.ndarray) -> np.ndarray:
    """Return the index of each row among the listed rows, int64 [N]; NOTHING if it is not listed.

    Each row is looked up once by a hash of 64 bits, whatever its length. The rows found are
    compared; rows with equal hashes that differ are looked up in a dictionary.
    """
    hash_M, hash_N = _hashes(listed_ML), _hashes(rows_NL)
    by_hash = np.argsort(hash_M, kind="stable")
    sorted_M = hash_M[by_hash]
    at_N = np.minimum(np.searchsorted(sorted_M, hash_N), max(0, len(sorted_M) - 1))
    if not len(sorted_M):
        return np.full(len(rows_NL), NOTHING, np.int64)
    places_N = by_hash[at_N]
    is_equal_N = (listed_ML[places_N] == rows_NL).all(axis=1)
    collides_N = ~is_equal_N & (sorted_M[at_N] == hash_N)
    found_N = np.where(is_equal_N, places_N, NOTHING)
    if collides_N.any():
        place = {row.tobytes(): index for index, row in enumerate(listed_ML)}
        rows = np.ascontiguousarray(rows_NL[collides_N])
        found_N[collides_N] = [place.get(row.tobytes(), NOTHING) for row in rows]
    return found_N


def _hashes(rows_NL: np.ndarray) -> np.ndarray:
    """Return a hash of each row, uint64 [N]."""
    hash_N = np.zeros(len(rows_NL), np.uint64)
    for column_N in rows_NL.T:
        hash_N = (hash_N ^ column_N.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        hash_N ^= hash_N >> np.uint64(29)
    return hash_N


def _tokens(
    lines: Lines, section: Section, words: list[bytes], kept: np.ndarray
) -> tuple[str, ...]:
    """Return the tokens of the `kept` words, bool [number of 1-grams], in the order of their ids.

    Raises:
      UserError: if a word is not UTF-8, or both <eos> and </s> are words.
    """
    places = np.flatnonzero(kept)
    names: list[str] = []
    for place in places:
        try:
            names.append(words[place].decode("utf-8"))
        except UnicodeDecodeError:
            message = f"expected text in UTF-8, found {words[place][:60]!r}"
            lines.fail(int(section.lines[place]), message)
    own = all("\\" not in name or _is_written_by_jaxlm(name) for name in names)
    tokens = [EOS if name == LINE_END else unescape(name) if own else name for name in names]
    if len(set(tokens)) < len(tokens):
        line = int(section.lines[places[names.index(EOS)]])
        lines.fail(line, f"{EOS} is a word here, and so is {LINE_END}, which is read as {EOS}")
    return tuple(tokens)


def escape(token: str, reserved: set[str]) -> str:
    r"""Return `token` as a word of an ARPA file; the words in `reserved` are escaped too.

    Example:
      >>> print(escape("a b", set()), escape("<s>", {"<s>", "</s>"}), escape("", set()))
      a\x20b \x3cs> \e
    """
    if not token:
        return r"\e"
    if token in reserved:
        return f"\\x{ord(token[0]):02x}{token[1:]}"
    # Most backslashes are not escaped, so that words are spelled as other programs spell them.
    return _escape(token, ESCAPED)


def _escape(token: str, escaped: re.Pattern[str]) -> str:
    """Return `token` with the characters `escaped` as their codes."""
    is_plain = escaped.search(token) is None and unescape(token) == token
    return token if is_plain else escaped.sub(_code, token.replace("\\", r"\\"))


def _is_written_by_jaxlm(word: str) -> bool:
    """Return whether this version, or an earlier version, writes a token as `word`."""
    token = unescape(word)
    if not token or token == word:
        return True
    if re.search(r"[\ud800-\udc7f\ude00-\udfff]", token):
        # Half of a character that JSON wrote as two codes.
        return False
    reserved = {LINE_START, LINE_END, "<UNK>"}
    return word in (escape(token, reserved), _escape(token, ONCE_ESCAPED))


def _code(match: re.Match[str]) -> str:
    """Return the escape of one character."""
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def unescape(word: str) -> str:
    """Return the token that `escape` wrote as `word`. A backslash without an escape is kept."""
    if word == r"\e":
        return ""
    return re.sub(
        r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4}))",
        lambda match: match[1] or chr(int(match[2] or match[3], 16)),
        word,
    )
