"""Four ways to cut text into tokens. Each owns its vocabulary, and is saved as plain JSON.

A tokenizer is fitted to the training text alone, and reads text as lines that keep their line
break, so that what it makes of a text does not depend on how the text was read.
"""

import abc
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.errors import UserError, choose

BPE_DEFAULT_SIZE = 4096
Lines = Iterable[str]


@dataclass(frozen=True)
class VocabularyConfig:
    """Which tokens the vocabulary keeps."""

    vocab_size: int | None = None
    """Most tokens to keep; the rest become <unk> (none: keep all; bpe: learn 4096)."""
    min_count: int = 1
    """A token seen fewer times than this in the training text becomes <unk>."""
    eos: bool = True
    """Words only: end every line with <eos>, which is predicted like a word."""


class Tokenizer(abc.ABC):
    """Text to ids and back."""

    name: ClassVar[str]
    vocabulary: Vocabulary

    @classmethod
    @abc.abstractmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Tokenizer":
        """A tokenizer whose vocabulary comes from `lines`."""

    @abc.abstractmethod
    def encode(self, lines: Lines) -> np.ndarray:
        """int32 ids of the text; raises UserError at a token that is neither listed nor covered by
        `<unk>`.
        """

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`."""

    @abc.abstractmethod
    def unseen(self, lines: Lines) -> str | None:
        """The first token of `lines` outside the vocabulary, or None."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """What, beside the vocabulary, is needed to build this tokenizer again."""


class Words(Tokenizer):
    """Words are what white space separates; every line ends in `<eos>` (empty lines too, as
    WikiText-2 counts them).
    """

    name = "words"

    def __init__(self, vocabulary: Vocabulary, eos: bool = True) -> None:
        self.vocabulary, self.eos = vocabulary, eos

    @staticmethod
    def _split(lines: Lines, eos: bool) -> Iterator[str]:
        for line in lines:
            yield from line.split()
            if eos:
                yield EOS

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Words":
        counts = Counter(cls._split(lines, config.eos))
        vocabulary = Vocabulary.from_counts(
            counts,
            min_count=config.min_count,
            max_size=config.vocab_size,
            add_unk=add_unk,
            start=EOS if config.eos else None,
        )
        return cls(vocabulary, config.eos)

    def encode(self, lines: Lines) -> np.ndarray:
        return self.vocabulary.ids(self._split(lines, self.eos))

    def decode(self, ids: Iterable[int]) -> str:
        pieces: list[str] = []
        for token in (self.vocabulary.tokens[index] for index in ids):
            if token != EOS and pieces and pieces[-1] != "\n":
                pieces.append(" ")
            pieces.append("\n" if token == EOS else token)
        return "".join(pieces)

    def unseen(self, lines: Lines) -> str | None:
        return next(
            (word for word in self._split(lines, self.eos) if word not in self.vocabulary), None
        )

    def state(self) -> dict[str, Any]:
        return {"eos": self.eos}


class Characters(Tokenizer):
    """Unicode characters (code points), the line break among them; right for text without spaces,
    such as Chinese.
    """

    name = "chars"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        unk_id = vocabulary.unk_id
        # One table from code point to id makes encoding a single NumPy lookup.
        self._table = np.full(0x110000, -1 if unk_id is None else unk_id, np.int32)
        for index, token in enumerate(vocabulary.tokens):
            if len(token) == 1:
                self._table[ord(token)] = index

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Characters":
        counts: Counter[str] = Counter()
        for line in lines:
            counts.update(line)
        return cls(
            Vocabulary.from_counts(
                counts,
                min_count=config.min_count,
                max_size=config.vocab_size,
                add_unk=add_unk,
                start="\n",
            )
        )

    def encode(self, lines: Lines) -> np.ndarray:
        # surrogatepass never meets text that was decoded from UTF-8; it keeps odd Python strings
        # from failing obscurely.
        text = "".join(lines)
        ids = self._table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        if (ids < 0).any():
            raise self.vocabulary.unknown(text[int(np.argmax(ids < 0))])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.vocabulary.tokens[index] for index in ids)

    def unseen(self, lines: Lines) -> str | None:
        known = set(self.vocabulary.tokens)
        return next(
            (character for line in lines for character in line if character not in known), None
        )

    def state(self) -> dict[str, Any]:
        return {}


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8: nothing is ever out of vocabulary."""

    name = "bytes"

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        tokens = tuple(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in range(256))
        self.vocabulary = vocabulary or Vocabulary(tokens, start=tokens[10])

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "Bytes":
        return cls()

    def encode(self, lines: Lines) -> np.ndarray:
        return np.frombuffer("".join(lines).encode("utf-8"), np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        # Of an array, bytes() would be its memory.
        return bytes(int(index) for index in ids).decode("utf-8", "replace")

    def unseen(self, lines: Lines) -> str | None:
        return None

    def state(self) -> dict[str, Any]:
        return {}


class BPE(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019): nothing is ever
    out of vocabulary.
    """

    name = "bpe"

    def __init__(self, vocabulary: Vocabulary | None, model: str) -> None:
        import tokenizers

        self._model = tokenizers.Tokenizer.from_str(model)
        size = self._model.get_vocab_size()
        tokens = tuple(self._model.id_to_token(index) or "" for index in range(size))
        line_break = tokens[self._model.encode("\n").ids[0]]
        self.vocabulary = vocabulary or Vocabulary(tokens, start=line_break)

    @classmethod
    def fit(cls, lines: Lines, config: VocabularyConfig, add_unk: bool) -> "BPE":
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        size = BPE_DEFAULT_SIZE if config.vocab_size is None else config.vocab_size
        if size < 257:
            raise UserError(
                f"--vocab-size {size}: byte-level BPE needs at least 257 tokens, one for each "
                f"byte and a merge"
            )
        model = tokenizers.Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        model.train_from_iterator(
            lines,
            trainers.BpeTrainer(
                vocab_size=size,
                min_frequency=max(2, config.min_count),
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            ),
        )
        return cls(None, model.to_str())

    def encode(self, lines: Lines) -> np.ndarray:
        encodings = self._model.encode_batch(list(lines))
        return np.concatenate(
            [np.empty(0, np.int32), *(np.array(e.ids, np.int32) for e in encodings)]
        )

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode([int(index) for index in ids])

    def unseen(self, lines: Lines) -> str | None:
        return None

    def state(self) -> dict[str, Any]:
        return {"model": self._model.to_str()}


TOKENIZERS: dict[str, type[Tokenizer]] = {
    "words": Words,
    "chars": Characters,
    "bytes": Bytes,
    "bpe": BPE,
}


def to_json(tokenizer: Tokenizer) -> str:
    """The tokenizer and its vocabulary, as JSON text."""
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
    """The tokenizer that `to_json` wrote."""
    saved = json.loads(text)
    vocabulary = Vocabulary(tuple(saved["tokens"]), saved["unk"], saved["start"])
    return choose(TOKENIZERS, saved["tokenizer"], "tokenizer")(vocabulary, **saved["state"])  # type: ignore[call-arg]
