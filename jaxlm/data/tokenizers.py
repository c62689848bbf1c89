"""Tokenizers: words, characters, bytes and byte-pair encoding (BPE).

Each tokenizer owns its vocabulary and is saved as plain JSON. It is fitted to the training text
alone. It reads a text as lines that keep their line breaks, so the ids of a text do not depend on
how the lines are grouped into calls.

Example:
  >>> lines = ["the cat\\n", "the dog\\n"]
  >>> tokenizer = TOKENIZERS["words"].fit(lines, VocabularyConfig(), add_unk=True)
  >>> tokenizer.vocabulary.tokens
  ('the', '<eos>', 'cat', 'dog', '<unk>')
  >>> tokenizer.encode(["the bird\\n"]).tolist()
  [0, 4, 1]
"""

import abc
import contextlib
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxlm.data.json_files import parse_json
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.data.word_lists import read_word_list
from jaxlm.errors import SettingError, UserError, choose
from jaxlm.ranges import Size

BPE_DEFAULT_SIZE = 4096
# BPE merges within words: contractions, letters, digits and other characters (Radford et al. 2019).
# A line break is always a token of its own, because it begins and ends lines. Longer runs without a
# break, as in Chinese, are cut every 24 characters. Otherwise the time of learning would grow with
# the square of their length.
BPE_WORDS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}{1,24}| ?\p{N}{1,24}| ?[^\s\p{L}\p{N}]{1,24}"
    r"|\n|[^\S\n]{1,24}(?!\S)|[^\S\n]{1,24}"
)
BPE_WORDS_UNTIL_0_1 = BPE_WORDS.replace(
    r"|\n|[^\S\n]{1,24}(?!\S)|[^\S\n]{1,24}", r"|\s{1,24}(?!\S)|\s{1,24}"
)
"""The pattern of older runs, in which a blank before a line break was one token with it."""
Lines = Iterable[str]
# Byte-level BPE writes each byte as a letter that can be printed (Radford et al. 2019): a byte that
# is a visible Latin-1 character as this character, the others as the letters from U+0100 on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = sorted(set(range(256)) - set(_VISIBLE))
BYTE_OF_LETTER = {chr(byte): byte for byte in _VISIBLE} | {
    chr(0x100 + index): byte for index, byte in enumerate(_OTHERS)
}
# A word between ASCII blanks: the white space of C's isspace, and of KenLM.
NOT_BLANK = re.compile(r"[^ \t\n\r\v\f]+")
# A word between any white space, as in `str.split`.
NOT_SPACE = re.compile(r"\S+")


@dataclass(frozen=True)
class VocabularyConfig:
    """The tokens that the vocabulary keeps."""

    vocab_size: Size | None = None
    """Largest number of tokens; the rest become <unk> (none: keep all; bpe: learn 4096)."""
    min_count: Size = 1
    """Tokens that occur fewer times than this in the training text become <unk>."""
    vocabulary_file: str | None = None
    """File with the vocabulary, one word a line; all other words become <unk> (none: the words of
    the training text). For chars: one character a line."""
    eos: bool = True
    """Words only: end every line with <eos>, which is predicted like a word."""


class Tokenizer(abc.ABC):
    """Converts text to ids and back. A subclass and a line in TOKENIZERS add a new tokenizer."""

    name: ClassVar[str]
    """The name in TOKENIZERS and in tokenizer.json."""
    unit: ClassVar[str] = "tokens"
    """What a report calls the tokens, a plural: words, characters or tokens."""
    splits_at_lines: ClassVar[bool] = False
    """Whether the cuts between train, valid and test in one file move to the next line break."""
    closed_vocabulary: ClassVar[bool]
    """Whether a text can have tokens that the vocabulary lacks. They become <unk>, or are an error
    if the vocabulary has no <unk>."""
    exact: ClassVar[bool] = False
    """Whether a file of any bytes is a text, whose every byte counts (`decode_lines`)."""
    uses: ClassVar[tuple[str, ...]] = ("vocab_size", "min_count", "vocabulary_file", "unk")
    """The settings of the vocabulary, of these four, that `fit` uses."""
    vocabulary: Vocabulary

    @classmethod
    @abc.abstractmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Tokenizer":
        """Return a tokenizer with a vocabulary from `lines`.

        Args:
          lines: the training text.
          config: the tokens to keep.
          add_unk: whether to add `<unk>`. Tokenizers without `closed_vocabulary` ignore it.
        """

    @abc.abstractmethod
    def encode(self, lines: Lines) -> np.ndarray:
        """Return the ids of a text, int32 [tokens].

        Raises:
          UserError: at a token that the vocabulary lacks, if it has no `<unk>`.
        """

    def encode_context(self, text: str) -> np.ndarray:
        """Return the ids of a context, int32 [tokens].

        The text after its last line break is the beginning of a line, so `Words` adds no `<eos>`
        after it. A line break is what it is in a corpus: `<eos>` for words, or a character.

        Raises:
          UserError: at a token that the vocabulary lacks, if it has no `<unk>`.
        """
        return self.encode([text.replace("\r\n", "\n")])

    def pieces(self, lines: Lines) -> Iterator[str]:
        """Yield the text of each token of `lines`, in the order of their ids.

        A token that becomes `<unk>` is yielded as it stands in the text.
        """
        yield from map(self.token_text, self.encode(lines).tolist())

    @abc.abstractmethod
    def spans(self, text: str) -> np.ndarray:
        """Return where each token of `encode_context(text)` stands in `text`, int64 [tokens, 2].

        A row is the offset of the token's first character, and the offset after its last character.
        `<eos>` stands at its line break. Tokens that are parts of one character all have the span
        of this character.
        """

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`."""

    def token_text(self, index: int) -> str:
        """Return the text of one token, as people read it.

        Tokens of bytes are decoded. A byte that is only a part of a character is written as its
        number, such as <0xE6>.
        """
        return self.vocabulary.tokens[index]

    def after_first_token(self, line: str) -> str | None:
        """Return the text of `line` after its first token; None if the tokenizer does not know.

        Only tokenizers that can have a vocabulary without a start token need to know it: there the
        first token of a line is not predicted.
        """
        return None

    @abc.abstractmethod
    def unseen(self, lines: Lines) -> str | None:
        """Return the first token of `lines` that the vocabulary lacks, or None if it lacks none."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the arguments of the constructor except the vocabulary, as JSON values."""


class Words(Tokenizer):
    """Words separated by white space. Unless `eos` is False, `<eos>` ends every line. Empty lines
    count too, as in the published numbers of words of WikiText-2.

    White space is what Unicode calls so, such as the no-break space and the ideographic space. With
    `ascii_blanks` it is the six ASCII blanks alone, as in KenLM.

    Example:
      >>> words = Words(Vocabulary(("the", "cat", EOS), start=EOS))
      >>> words.encode(["the cat\\n"]).tolist(), words.encode_context("the cat").tolist()
      ([0, 1, 2], [0, 1])
      >>> words.decode([0, 1, 2])
      'the cat\\n'
    """

    name = "words"
    unit = "words"
    splits_at_lines = True
    closed_vocabulary = True

    def __init__(
        self, vocabulary: Vocabulary, eos: bool = True, ascii_blanks: bool = False
    ) -> None:
        if not (isinstance(eos, bool) and isinstance(ascii_blanks, bool)):
            raise UserError("`eos` and `ascii_blanks` of a tokenizer must be true or false")
        self.vocabulary, self.eos, self.ascii_blanks = vocabulary, eos, ascii_blanks

    @staticmethod
    def _split(lines: Lines, eos: bool, ascii_blanks: bool = False) -> Iterator[str]:
        """Yield the words of the lines, and `<eos>` after each line if `eos`."""
        for line in lines:
            yield from NOT_BLANK.findall(line) if ascii_blanks else line.split()
            if eos:
                yield EOS

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Words":
        counts = Counter(cls._split(lines, config.eos))
        start = EOS if config.eos else None
        return cls(_vocabulary(counts, config, add_unk, start, cls.unit), config.eos)

    def encode(self, lines: Lines) -> np.ndarray:
        return self.vocabulary.ids(self._split(lines, self.eos, self.ascii_blanks))

    def encode_context(self, text: str) -> np.ndarray:
        # The last line goes on, so no <eos> ends it.
        *lines, last = text.split("\n")
        words = self._split(lines, self.eos, self.ascii_blanks)
        return self.vocabulary.ids([*words, *self._split([last], False, self.ascii_blanks)])

    def pieces(self, lines: Lines) -> Iterator[str]:
        return self._split(lines, self.eos, self.ascii_blanks)

    def spans(self, text: str) -> np.ndarray:
        word, begin, found = NOT_BLANK if self.ascii_blanks else NOT_SPACE, 0, []
        for line in text.split("\n"):
            found += [(begin + match.start(), begin + match.end()) for match in word.finditer(line)]
            begin += len(line) + 1
            if self.eos:
                found.append((begin - 1, begin))
        # No line break follows the last line.
        return _as_spans(found[:-1] if self.eos else found)

    def decode(self, ids: Iterable[int]) -> str:
        parts: list[str] = []
        for token in (self.vocabulary.tokens[index] for index in ids):
            if token != EOS and parts and parts[-1] != "\n":
                parts.append(" ")
            parts.append("\n" if token == EOS else token)
        return "".join(parts)

    def after_first_token(self, line: str) -> str:
        # Without <eos> the line break is no token.
        line = line.lstrip() if self.eos else line.strip()
        return line[len(line.split(maxsplit=1)[0]) :] if line else ""

    def unseen(self, lines: Lines) -> str | None:
        words = self._split(lines, self.eos, self.ascii_blanks)
        return next((word for word in words if word not in self.vocabulary), None)

    def state(self) -> dict[str, Any]:
        return {"eos": self.eos} | ({"ascii_blanks": True} if self.ascii_blanks else {})


def _vocabulary(
    counts: Counter[str], config: VocabularyConfig, add_unk: bool, start: str | None, unit: str
) -> Vocabulary:
    """Return the vocabulary that `config` asks for.

    Args:
      counts: the number of occurrences of each token in the training text.
      config: the tokens to keep.
      add_unk: whether to add `<unk>` in any case.
      start: the start token, or None.
      unit: the unit of the tokenizer, for errors.
    Raises:
      SettingError: for settings of the vocabulary that exclude each other, or a missing file.
      UserError: for a bad list of words.
    """
    if config.vocabulary_file is None:
        return Vocabulary.from_counts(
            counts,
            min_count=config.min_count,
            max_size=config.vocab_size,
            add_unk=add_unk,
            start=start,
        )
    for name in ("vocab_size", "min_count"):
        value = getattr(config, name)
        if value != getattr(VocabularyConfig, name):
            why = "has no effect with `vocabulary_file`, which lists the words: leave one out"
            raise SettingError(name, value, why)
    listed = read_word_list(config.vocabulary_file, unit)
    try:
        return Vocabulary.from_list(listed, counts, start=start)
    except UserError as error:
        raise UserError(f"{config.vocabulary_file}: {error}") from None


class Characters(Tokenizer):
    """Unicode characters (code points), line breaks included. Suits text without spaces, such as
    Chinese.

    Example:
      >>> Characters(Vocabulary(("a", "b", "\\n"), start="\\n")).encode(["ab\\n"]).tolist()
      [0, 1, 2]
    """

    name = "chars"
    unit = "characters"
    closed_vocabulary = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        unk_id = vocabulary.unk_id
        # A table from code point to id makes encoding a single NumPy look-up.
        self._table = np.full(0x110000, -1 if unk_id is None else unk_id, np.int32)
        for index, token in enumerate(vocabulary.tokens):
            if len(token) == 1:
                self._table[ord(token)] = index
        self._reads_breaks = "\n" in vocabulary
        """Whether a line break is a token. A vocabulary of another program may lack it; line breaks
        then divide lines, and are not read."""

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Characters":
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(line)
        return cls(_vocabulary(counts, config, add_unk, "\n", cls.unit))

    def encode(self, lines: Lines) -> np.ndarray:
        # Text decoded from UTF-8 has no lone surrogates, but a Python string may have them. With
        # surrogatepass they are encoded like any other character that the vocabulary lacks.
        text = "".join(lines)
        if not self._reads_breaks:
            text = text.replace("\n", "")
        ids = self._table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        if (ids < 0).any():
            raise self.vocabulary.unknown(text[int(np.argmax(ids < 0))])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.vocabulary.tokens[index] for index in ids)

    def pieces(self, lines: Lines) -> Iterator[str]:
        if self._reads_breaks:
            return itertools.chain.from_iterable(lines)
        return itertools.chain.from_iterable(line.replace("\n", "") for line in lines)

    def spans(self, text: str) -> np.ndarray:
        spans = _character_spans(text)
        if self._reads_breaks:
            return spans
        return spans[[text[end - 1] != "\n" for end in spans[:, 1]]]

    def after_first_token(self, line: str) -> str:
        return line[1:]

    def unseen(self, lines: Lines) -> str | None:
        listed = set(self.vocabulary.tokens)
        return next(
            (character for character in self.pieces(lines) if character not in listed), None
        )

    def state(self) -> dict[str, Any]:
        return {}


class Bytes(Tokenizer):
    """The 256 bytes. They cover any text in UTF-8, and any file: its bytes are read as they are.

    Example:
      >>> Bytes().encode(["é\\n"]).tolist()
      [195, 169, 10]
    """

    name = "bytes"
    closed_vocabulary = False
    exact = True
    uses = ()

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        tokens = tuple(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in range(256))
        if vocabulary is not None and vocabulary.tokens != tokens:
            raise UserError("the tokens of the vocabulary are not the 256 bytes")
        self.vocabulary = vocabulary or Vocabulary(tokens, start=tokens[10])

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Bytes":
        return cls()

    def encode(self, lines: Lines) -> np.ndarray:
        return np.frombuffer("".join(lines).encode("utf-8", "surrogateescape"), np.uint8).astype(
            np.int32
        )

    def encode_context(self, text: str) -> np.ndarray:
        # Every byte counts, also that of a carriage return.
        return self.encode([text])

    def spans(self, text: str) -> np.ndarray:
        sizes = [len(character.encode("utf-8", "surrogateescape")) for character in text]
        ends = np.arange(1, len(text) + 1, dtype=np.int64)
        return np.repeat(np.stack([ends - 1, ends], axis=1), sizes, axis=0)

    def decode(self, ids: Iterable[int]) -> str:
        # bytes(array) would return the memory of the array.
        return bytes(int(index) for index in ids).decode("utf-8", "replace")

    def token_text(self, index: int) -> str:
        return _text_of_bytes(bytes([index]))

    def unseen(self, lines: Lines) -> str | None:
        return None

    def state(self) -> dict[str, Any]:
        return {}


class BPE(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019). Its tokens are
    single bytes and frequent sequences of bytes, so they cover any text.

    `model` is the JSON text of a `tokenizers.Tokenizer`.
    """

    name = "bpe"
    closed_vocabulary = False
    uses = ("vocab_size", "min_count")

    def __init__(self, vocabulary: Vocabulary | None, model: str) -> None:
        self._model = _bpe_model(model)
        size = self._model.get_vocab_size()
        tokens = tuple(self._model.id_to_token(index) or "" for index in range(size))
        if vocabulary is not None and vocabulary.tokens != tokens:
            raise UserError("the tokens of the vocabulary are not those of the BPE model")
        line_break = tokens[self._model.encode("\n").ids[0]]
        self.vocabulary = vocabulary or Vocabulary(tokens, start=line_break)

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "BPE":
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        size = BPE_DEFAULT_SIZE if config.vocab_size is None else config.vocab_size
        if size < 257:
            raise SettingError(
                "vocab_size",
                size,
                "byte-level BPE needs at least 257 tokens, one for each byte and one merge",
            )
        model = tokenizers.Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(BPE_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        model.decoder = decoders.ByteLevel()
        model.train_from_iterator(
            lines,
            trainers.BpeTrainer(
                vocab_size=size,
                min_frequency=max(2, config.min_count),
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=sys.stderr.isatty(),
            ),
        )
        return cls(None, model.to_str())

    def encode(self, lines: Lines) -> np.ndarray:
        with _without_panic():
            encodings = self._model.encode_batch(list(lines))
        return np.concatenate(
            [np.empty(0, np.int32), *(np.array(e.ids, np.int32) for e in encodings)]
        )

    def spans(self, text: str) -> np.ndarray:
        characters = _character_spans(text)
        with _without_panic():
            offsets = _as_spans(self._model.encode(text.replace("\r\n", "\n")).offsets)
        first, last = offsets[:, 0], offsets[:, 1] - 1
        return np.stack([characters[first, 0], characters[last, 1]], axis=1)

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode([int(index) for index in ids])

    def token_text(self, index: int) -> str:
        token = self.vocabulary.tokens[index]
        if not all(letter in BYTE_OF_LETTER for letter in token):
            return token
        return _text_of_bytes(bytes(BYTE_OF_LETTER[letter] for letter in token))

    def unseen(self, lines: Lines) -> str | None:
        return None

    def state(self) -> dict[str, Any]:
        return {"model": self._model.to_str()}


def _bpe_model(text: str) -> Any:
    """Return the `tokenizers.Tokenizer` of a JSON text.

    Raises:
      UserError: if the text is damaged, or the model does not cover every byte.
    """
    import tokenizers

    if not isinstance(text, str):
        raise UserError(f"the BPE model is a {type(text).__name__}, not a text")
    try:
        model = tokenizers.Tokenizer.from_str(text)
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        covers = all(model.token_to_id(byte) is not None for byte in alphabet)
        covers = covers and len(model.encode("\n").ids) == 1
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the BPE model is damaged: {reason}") from None
    if not covers:
        raise UserError("the BPE model is damaged: it does not cover every byte")
    return model


@contextlib.contextmanager
def _without_panic() -> Iterator[None]:
    """Within this context, a panic of the library tokenizers becomes a UserError.

    The pattern in a stranger's file may take so many attempts on a text that the library gives up.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        why = " ".join(str(error).split())[:200]
        raise UserError(f"the BPE model cannot cut the text: {why}") from None


def _as_spans(offsets: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return pairs of offsets as an int64 array [pairs, 2], also if there are none."""
    return np.array(list(offsets), np.int64).reshape(-1, 2)


def _character_spans(text: str) -> np.ndarray:
    """Return the span of each character of `text`, int64 [characters, 2].

    A line break of two characters, "\\r\\n", is one character.

    Example:
      >>> _character_spans("a\\r\\nb").tolist()
      [[0, 1], [1, 3], [3, 4]]
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_pair = np.zeros(len(codes), bool)
    is_pair[1:] = (codes[:-1] == ord("\r")) & (codes[1:] == ord("\n"))
    ends = 1 + np.flatnonzero(~np.append(is_pair[1:], False)) if len(codes) else np.zeros(0, int)
    return np.stack([np.concatenate([[0], ends])[:-1], ends], axis=1).astype(np.int64)


def _text_of_bytes(raw: bytes) -> str:
    """Return the text of `raw`; a byte that is only a part of a character is written as <0xE6>.

    Example:
      >>> _text_of_bytes("在".encode() + bytes([0xE6]))
      '在<0xE6>'
    """
    text = raw.decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda part: f"<0x{ord(part[0]) - 0xDC00:02X}>", text)


def quoted(text: str) -> str:
    """Return the text of a token as a terminal shows it.

    A token whose characters cannot all be seen, such as a line break or a blank at its end, has
    quotes and Python's escapes.

    Example:
      >>> quoted("cat"), quoted(" cat"), quoted("\\n")
      ('cat', "' cat'", "'\\\\n'")
    """
    return text if text and text.isprintable() and text == text.strip() else repr(text)


TOKENIZERS: dict[str, type[Tokenizer]] = {
    "words": Words,
    "chars": Characters,
    "bytes": Bytes,
    "bpe": BPE,
}


def check_used(kind: type[Tokenizer], config: VocabularyConfig) -> None:
    """Raise SettingError for a setting of `config` that tokenizers of this `kind` do not use."""
    default = type(config)()
    for name in Tokenizer.uses:
        value = getattr(config, name, None)
        if name not in kind.uses and value != getattr(default, name, None):
            raise SettingError(
                name, value, f"has no effect with `tokens` {kind.name}: leave it out"
            )


def to_json(tokenizer: Tokenizer) -> str:
    """Return the tokenizer and its vocabulary as JSON text, the content of tokenizer.json."""
    vocabulary = tokenizer.vocabulary
    return json.dumps(
        {
            "tokenizer": tokenizer.name,
            "unk": vocabulary.unk,
            "start": vocabulary.start,
            "state": tokenizer.state(),
            "tokens": vocabulary.tokens,
        },
        ensure_ascii=False,
        indent=0,
    )


def from_json(text: str) -> Tokenizer:
    """Return the tokenizer that `to_json` wrote as `text`.

    Raises:
      ValueError: if the text is no JSON.
      UserError: if its name is not in TOKENIZERS, or it is damaged.
    """
    return from_saved(parse_json(text, "the tokenizer"))


def from_saved(saved: Any) -> Tokenizer:
    """Return the tokenizer whose `to_json` has the content `saved`.

    Raises:
      UserError: if its name is not in TOKENIZERS, or it is damaged.
    """
    keys = ("tokenizer", "tokens", "unk", "start", "state")
    kinds: dict[str, Any] = dict(zip(keys, (str, list, str | None, str | None, dict), strict=True))
    if not isinstance(saved, dict) or not kinds.keys() <= saved.keys():
        raise UserError(f"the tokenizer lacks one of {', '.join(keys)}")
    for name, kind in kinds.items():
        if not isinstance(saved[name], kind):
            raise UserError(f"`{name}` of the tokenizer is a {type(saved[name]).__name__}")
    if not all(isinstance(token, str) for token in saved["tokens"]):
        raise UserError("a token of the vocabulary is not a text")
    try:
        "".join(saved["tokens"]).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"a token of the vocabulary is no Unicode text ({error.reason})") from None
    vocabulary = Vocabulary(tuple(saved["tokens"]), saved["unk"], saved["start"])
    kind = choose(TOKENIZERS, saved["tokenizer"], "tokenizer")
    try:
        return kind(vocabulary, **saved["state"])  # type: ignore[call-arg]
    except TypeError as error:
        raise UserError(f"the state of the tokenizer is damaged: {error}") from None
