"""A corpus as token ids: the tokenizer is fitted to the training split, and encodes all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxlm.data.corpora import CORPORA, cache_folder, corpus_sources
from jaxlm.data.encoding import Split
from jaxlm.data.shards import is_prepared, read_prepared
from jaxlm.data.tokenizers import TOKENIZERS, Tokenizer, VocabularyConfig
from jaxlm.data.vocabulary import UNK, Vocabulary
from jaxlm.errors import UserError, choose


@dataclass(frozen=True)
class TextConfig(VocabularyConfig):
    """Which text, and how it is cut into tokens."""

    corpus: str = "toy"
    """toy, ptb, wikitext-2, tinyshakespeare, a UTF-8 file, or a folder of train/valid/test or that
    python -m jaxlm.prepare made."""
    tokens: str | None = None
    """words, chars, bytes or bpe (none: the corpus's own way; words for a path)."""
    unk: str = "auto"
    """When unlisted tokens become <unk>: auto (if valid or test needs it), always, never."""
    fractions: tuple[float, ...] | None = None
    """Shares of a single file for train, valid and test (none: 0.9 0.05 0.05)."""


@dataclass(frozen=True)
class Text:
    """A corpus as token ids: one Split for each of train, valid and test that the corpus has."""

    config: TextConfig
    tokenizer: Tokenizer
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.config.corpus

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    def split(self, name: str) -> Split:
        """The named split, or a UserError that lists those there are."""
        return choose(self.splits, name, f"split of {self.name}")

    @property
    def train(self) -> Split:
        return self.split("train")

    @property
    def valid(self) -> Split | None:
        return self.splits.get("valid")

    @property
    def test(self) -> Split | None:
        return self.splits.get("test")


def read_corpus(corpus: str | TextConfig = "toy", **options: object) -> Text:
    """Reads a corpus, fits its tokenizer to the training split, and encodes every split.

        text = read_corpus("ptb")          text = read_corpus("my.txt", tokens="chars", min_count=2)

    Raises UserError for an unknown name, an unreadable or empty text, and, with unk="never", a
    token of the valid or test split that the training split lacks.
    """
    config = corpus if isinstance(corpus, TextConfig) else TextConfig(corpus=corpus, **options)  # type: ignore[arg-type]
    if config.unk not in ("auto", "always", "never"):
        raise UserError(f"unknown --unk {config.unk!r}: choose one of auto, always, never")
    known = CORPORA.get(config.corpus)
    if known is None and is_prepared(Path(config.corpus)):
        return _prepared(config)
    tokens = config.tokens or (known.tokens if known else "words")
    kind = choose(TOKENIZERS, tokens, "tokens")
    sources = corpus_sources(config.corpus, config.fractions, at_lines=tokens == "words")
    train = sources["train"]
    if not any(line.strip() for line in train.lines()):
        raise UserError(f"{config.corpus} is empty: there is no text to train on")
    tokenizer = kind.fit(train.lines(), config, config.unk == "always")
    cut = config.min_count > 1 or config.vocab_size is not None
    if config.unk == "never" and cut and tokens in ("words", "chars"):
        raise UserError(
            "--unk never leaves nothing for the tokens that --min-count or --vocab-size cut: "
            "leave one of them out"
        )
    # Every token of the training text is listed, so only the others can need <unk>.
    others = [source for split, source in sources.items() if split != "train"]
    needed = config.unk == "auto" and tokenizer.vocabulary.unk is None
    if needed and any(tokenizer.unseen(source.lines()) for source in others):
        tokenizer = kind.fit(train.lines(), config, True)
    splits = {
        name: Split.encode(name, source, tokenizer, cache_folder)
        for name, source in sources.items()
    }
    return Text(config, tokenizer, splits, tuple(_notes(config, tokenizer, splits)))


def _prepared(config: TextConfig) -> Text:
    """A folder that `python -m jaxlm.prepare` made, which has its tokenizer."""
    tokenizer, splits = read_prepared(Path(config.corpus))
    decided = {"tokens": tokenizer.name, "corpus": config.corpus}
    for name, value in vars(TextConfig()).items():
        given = getattr(config, name)
        if given not in (value, decided.get(name)):
            raise UserError(
                f"--{name.replace('_', '-')} {given}: {config.corpus} is a prepared text, whose "
                f"tokens are made; leave the flag out, or prepare the text with it"
            )
    if not len(splits["train"]):
        raise UserError(f"{config.corpus} is empty: there is no text to train on")
    return Text(config, tokenizer, splits)


def _notes(config: TextConfig, tokenizer: Tokenizer, splits: Mapping[str, Split]) -> list[str]:
    notes = []
    train = splits["train"]
    longest = max(
        (line for _, line in zip(range(1000), train.source.lines(), strict=False)), key=len
    )
    if (
        tokenizer.name == "words"
        and len(longest) > 20
        and len(longest.split()) == 1
        and not longest.isascii()
    ):
        notes.append(
            f"a line of {len(longest.strip())} characters has no spaces, so it counts as one word; "
            f"text without spaces is read with --tokens chars or --tokens bpe"
        )
    unk_id = tokenizer.vocabulary.unk_id
    if unk_id is not None and not np.any(train.ids == unk_id):
        notes.append(
            f"{UNK} never occurs in the training text, so its probability is not learnt: "
            f"--min-count 2 mends it"
        )
    return notes
